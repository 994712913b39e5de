# SPDX-License-Identifier: Apache-2.0
"""Makes imxcrypt.yaml of the variables of a product.

    IMXCRYPT_VOLUMES       names of the volumes; one named data by default
    IMXCRYPT_DEVICE        the device of the only volume; of several: [NAME]
    IMXCRYPT_MOUNT         the mount point; of several: [NAME]. none: not mounted
    IMXCRYPT_MOUNT_OPTIONS, IMXCRYPT_FILESYSTEM, IMXCRYPT_SOURCE, IMXCRYPT_REQUIRED,
    IMXCRYPT_TIMEOUT       for all volumes, or [NAME]: as in imxcrypt.yaml(5)

The program checks more than this (imxcrypt config check): here stops what would
cost an image.
"""
import json
import os
import re
import sys

FIELDS = ("DEVICE", "MOUNT", "MOUNT_OPTIONS", "FILESYSTEM", "SOURCE", "REQUIRED", "TIMEOUT")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,46}")
CONTROLLER = r"(eMMC|[a-z][a-z0-9,._-]*@[0-9a-f]+|[0-9a-f]+\.[a-z][a-z0-9,._-]*):"
DEVICE = re.compile(r"/\S+|(" + CONTROLLER + r")?(PARTLABEL|PARTUUID|LABEL|UUID)=\S.*|" + CONTROLLER + r"part[1-9]\d*")


class Invalid(Exception):
    """What is wrong, one line each."""


def own_file(path):
    """Says whether there is a configuration of the product's own, written by hand."""
    if path and not os.path.isabs(path):
        raise Invalid("IMXCRYPT_CONFIGURATION: %r is not an absolute path" % path)
    if path and not os.path.isfile(path):
        raise Invalid("IMXCRYPT_CONFIGURATION: there is no file %s" % path)
    return bool(path)


def volumes(variable, flags):
    """Lists the volumes as dictionaries.

    variable(name) is a variable's value or None; flags(name) its flags.
    """
    wrong = []
    names = (variable("IMXCRYPT_VOLUMES") or "").split()
    if not names:
        wrong.append("IMXCRYPT_VOLUMES is empty")
    for name in names:
        if not NAME.fullmatch(name):
            wrong.append("IMXCRYPT_VOLUMES: %r is not a name: at most 47 of A-Z, a-z, 0-9, '.', '_' and '-', "
                         "starting with a letter or digit" % name)
        if names.count(name) > 1:
            wrong.append("IMXCRYPT_VOLUMES: %r is there twice" % name)

    def value(field, name):
        own = flags("IMXCRYPT_" + field).get(name)
        shared = variable("IMXCRYPT_" + field)
        if own is None and field in ("DEVICE", "MOUNT") and len(names) > 1 and shared:
            wrong.append("IMXCRYPT_%s is for one volume, and there are several: IMXCRYPT_%s[%s]" % (field, field, name))
            return None
        return ((shared if own is None else own) or "").strip()

    for field in FIELDS:
        for name in flags("IMXCRYPT_" + field):
            if name not in names and name not in ("doc", "export", "unexport", "vardeps", "vardepsexclude", "vardepvalue"):
                wrong.append("IMXCRYPT_%s[%s]: IMXCRYPT_VOLUMES has no %s" % (field, name, name))

    made = []
    for name in names:
        v = {"name": name}
        device = value("DEVICE", name)
        if not device:
            wrong.append("IMXCRYPT_DEVICE of %s is missing" % name)
        elif not DEVICE.fullmatch(device):
            wrong.append("IMXCRYPT_DEVICE of %s: %r is neither an absolute path nor PARTLABEL=, PARTUUID=, LABEL= or UUID=" % (name, device))
        v["device"] = device
        for field, key in (("SOURCE", "source"), ("FILESYSTEM", "filesystem"), ("TIMEOUT", "timeout")):
            if value(field, name):
                v[key] = value(field, name)
        required = value("REQUIRED", name)
        if required not in ("", "0", "1"):
            wrong.append("IMXCRYPT_REQUIRED of %s is %r, and not 0 or 1" % (name, required))
        elif required:
            v["required"] = required == "1"
        mount = value("MOUNT", name)
        if mount and mount != "none":
            if not mount.startswith("/") or mount == "/" or re.search(r"//|/\.{1,2}(/|$)|/$|\s", mount):
                wrong.append("IMXCRYPT_MOUNT of %s: %r is not a clean absolute path" % (name, mount))
            v["mount"] = {"path": mount}
            options = [o for o in value("MOUNT_OPTIONS", name).split(",") if o]
            if options:
                v["mount"]["options"] = options
        made.append(v)
    for what in ("device", "mount"):
        seen = {}
        for v in made:
            place = v.get(what)
            place = place["path"] if isinstance(place, dict) else place
            if place and place in seen:
                wrong.append("%s and %s have the same %s %s" % (seen[place], v["name"], what, place))
            seen[place] = v["name"]
    if wrong:
        raise Invalid("\n".join(dict.fromkeys(wrong)))
    return made


def text(made):
    """Is imxcrypt.yaml. A line of JSON is YAML, too."""
    lines = ["# Made from the variables IMXCRYPT_* of the product.", "volumes:"]
    return "\n".join(lines + ["  - " + json.dumps(v, ensure_ascii=True) for v in made]) + "\n"


def main():
    """Reads {"VARIABLE": "value", "VARIABLE[FLAG]": "value"}; what the tests do."""
    given = json.load(sys.stdin)

    def flags(name):
        return {k[len(name) + 1:-1]: v for k, v in given.items() if k.startswith(name + "[")}

    try:
        sys.stdout.write(text(volumes(given.get, flags)))
    except Invalid as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
