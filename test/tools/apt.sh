# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts that fetch Debian packages without root and without touching the
# host's apt or dpkg state (the host's list of architectures included). The caller has
# set -eu, me (its name, for messages) and dest, an absolute path.
#
#   apt_use STATE deb|deb-src [SUITE...]
#                               work with a private apt state, dest/STATE, for
#                               Debian 12 or those suites of the same mirror
#   aptget, aptcache            apt-get and apt-cache with that state
#   apt_update                  read the package lists, once
#   fetched COMMAND...          run apt-get COMMAND in a new folder, named by
#                               $fetched; the caller removes it
#   fetches_dropped             remove such folders of runs of the caller that were killed
#
# The host's apt settings, above all its proxy, apply here too. Its hooks after an
# update do not: they may clean the host's caches or notify its desktop.
#
# The mirrors are those of the host's own apt for Debian 12, if it has any;
# IMXCRYPT_DEBIAN_MIRROR and IMXCRYPT_DEBIAN_SECURITY name others.

die() { echo "$me: $*" >&2; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
for tool in apt-get apt-cache dpkg dpkg-deb depmod flock; do
	command -v "$tool" >/dev/null || die "$tool not found"
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || die "$keyring not found; install debian-archive-keyring"
host=$(dpkg --print-architecture)

# One private state knows the host's architecture (for the tools that run here) and both
# of the guests' architectures: an update with fewer of them would remove the other
# lists.
apt_use() {
	apt=$dest/$1 apt_kind=$2
	shift 2
	apt_suites=${*:-bookworm bookworm-security}
	apt_options="-c $apt/no-hooks -o Dir::State=$apt/state -o Dir::State::status=$apt/status
		-o Dir::Cache=$apt/cache -o Dir::Etc::sourcelist=$apt/sources.list
		-o Dir::Etc::sourceparts=/dev/null -o APT::Architecture=$host
		-o APT::Architectures::=$host -o APT::Architectures::=amd64 -o APT::Architectures::=arm64
		-o APT::Sandbox::User=$(id -un) -o Acquire::Languages=none
		-o Acquire::Retries=3 -o Dir::Log=$apt -qq"
	mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
	cat >"$apt/no-hooks" <<-END
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	END
}

# shellcheck disable=SC2086 # the options are words
aptget() { apt-get $apt_options "$@" >&2; }

# shellcheck disable=SC2086
aptcache() { apt-cache $apt_options "$@"; }

# The mirror that the host itself uses for a release, or nothing.
host_mirror() {
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk -v release="$1" '$1 == release { print $2; exit }'
}

apt_update() {
	[ -e "$apt/updated" ] && return
	: >"$apt/status"
	for suite in $apt_suites; do
		case $suite in
		*-security)
			mirror=${IMXCRYPT_DEBIAN_SECURITY:-$(host_mirror bookworm-security)}
			mirror=${mirror:-http://deb.debian.org/debian-security} ;;
		*)
			mirror=${IMXCRYPT_DEBIAN_MIRROR:-$(host_mirror bookworm)}
			mirror=${mirror:-http://deb.debian.org/debian} ;;
		esac
		echo "$apt_kind [signed-by=$keyring] $mirror $suite main"
	done >"$apt/sources.list"
	echo "$me: reading package lists" >&2
	aptget update
	: >"$apt/updated"
}

# Each caller has its own folders: others may be fetching at the same moment.
fetches() { echo "$dest/.fetch-$(echo "$me" | tr / _)"; }

fetches_dropped() { rm -rf "$(fetches)".*; }

fetched() {
	fetched=$(mktemp -d "$(fetches).XXXXXX")
	(cd "$fetched" && aptget "$@") && return
	rm -rf "$fetched"
	# The lists may be older than the archive: read them again next time.
	rm -f "$apt/updated"
	die "cannot fetch: $*"
}
