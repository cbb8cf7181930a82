# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by scripts of the laboratory that need libraries which nothing else does: an environment of their own, in front of the usual one.

# beside NAME: makes it where it is not there, of scripts/lab/NAME_requirements.txt without what these ask for; its folder is `$env`.
beside() {
    local requirements="scripts/lab/$1_requirements.txt"
    env="$camflow_cache/$1-$(sha256sum "$requirements" | cut -c1-8)"
    if [ ! -e "$env/.complete" ]; then
        rm -rf "$env"
        "$camflow_python" -m venv "$env"
        "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements"
        packages_of "$camflow_python" >"$(packages_of "$env/bin/python")/environment.pth"
        touch "$env/.complete"
    fi
}
