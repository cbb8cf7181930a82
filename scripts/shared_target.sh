# shellcheck shell=bash
# Sourced by scripts whose build folder several clones share.
#
# cargo knows crates by their place in the workspace and their sources by when they were changed: what one clone compiled later than
# another one was checked out counts for that one as well, whatever stands in it.

#   shared_target FOLDER PROFILE    takes the build folder for this clone: what another one made of the workspace's own crates goes
shared_target() {
    local owner="$1/clone-$2"
    if [ -d "$1" ] && [ "$(cat "$owner" 2>/dev/null)" != "$PWD" ]; then
        cargo clean --quiet --workspace --profile "$2" --target-dir "$1"
    fi
    mkdir -p "$1"
    printf '%s\n' "$PWD" >"$owner"
}
