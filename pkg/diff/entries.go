package diff

// Entry is one file, symbolic link or submodule of a tree, as
// (*Repo).Entries(ctx, rev) lists them, sorted by path. For the work tree
// (rev == "") files that differ from the head carry the object id that git
// would give them (blobs hashed from the file, link texts for links), files
// that are gone are left out and untracked, not ignored ones are there.
type Entry struct {
	// Path from the root, with slashes.
	Path string
	// Mode in octal as git writes it: 100644, 100755, 120000, 160000.
	Mode string
	// Object id in hex.
	Object string
}
