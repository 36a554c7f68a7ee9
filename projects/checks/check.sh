while IFS='=' read -r name value; do
	case $value in
	'' | *[!0-9]*)
		echo "$name: '$value' is no number" >&2
		exit 1
		;;
	*) echo "$name is $value" ;;
	esac
done <limits.txt
