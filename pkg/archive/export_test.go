package archive

// UnpackAs is Unpack that behaves as for root, or as for another user.
var UnpackAs = unpack
