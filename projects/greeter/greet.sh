#!/bin/sh
while IFS= read -r line; do
	echo "$line"
done </srv/greeting.txt
