#!/bin/sh
# Says what the image was built to say; with an argument, where its root file system is.
while read -r line; do echo "$line"; done < "${1:-}/usr/local/share/greeting"
