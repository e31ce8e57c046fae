# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Sourced by check and demo: the packages of tests/packages.txt and their installation.

# The packages of these sections of the list; of all of it without a section.
packages() {
	awk -v wanted=" $* " '
		/^# / { on = wanted == "  " || index(wanted, " " $2 " "); next }
		NF && on { print $1 }' tests/packages.txt
}

# install_packages yes|no [SECTION...]: install what is missing, or only say what is.
install_packages() {
	local install=$1 missing=() name

	shift
	while read -r name; do
		if [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) != installed ]]; then
			missing+=("$name")
		fi
	done < <(packages "$@")
	if ((!${#missing[@]})); then
		return
	fi
	echo "missing: ${missing[*]}"
	if [[ $install == no || $EUID != 0 ]]; then
		echo "${0##*/}: run as root without -n to install them" >&2
		exit 2
	fi
	apt-get -q update
	# Services of these packages are not wanted: the tests start their own.
	DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get -q -y --no-install-recommends install "${missing[@]}"
}
