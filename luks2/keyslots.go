// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/base64"
	"math"
)

// keyslots validates cryptsetup's keyslots: our volumes have none, but `header check`
// checks any header. Unknown types must follow the rules that all types share.
func (d *decoder) keyslots(s *section) error {
	return s.each(func(id string, s *section) error {
		typ, err := s.string("type")
		if err != nil {
			return err
		}
		size, err := s.uint32("key_size")
		if err != nil {
			return err
		}
		if s.has("priority") {
			p, err := s.uint32("priority")
			if err != nil {
				return err
			}
			if p > 2 && d.at.kind != foreign {
				return invalid(RuleKeyslot, `"priority" of %s is %d, not 0, 1 or 2`, s.path, p)
			}
		}
		area, err := s.object("area")
		if err != nil {
			return err
		}
		areaType, err := d.area(area)
		if err != nil {
			return err
		}
		switch typ {
		case "luks2":
			err = d.luks2Keyslot(s, area, areaType)
		case "reencrypt":
			err = d.reencryptKeyslot(s, area, areaType, size)
		}
		if err != nil {
			return err
		}
		all := Members{}
		for _, m := range s.v.members {
			all[m.name] = appendValue(nil, m.value)
		}
		d.md.Keyslots[id] = all
		return nil
	})
}

// area notes a keyslot's area, for the comparison of all areas, and returns its type.
func (d *decoder) area(s *section) (string, error) {
	typ, err := s.string("type")
	if err != nil {
		return "", err
	}
	offset, err := s.bytes("offset")
	if err != nil {
		return "", err
	}
	size, err := s.bytes("size")
	if err != nil {
		return "", err
	}
	if (offset%sectorSize != 0 || size%sectorSize != 0) && d.at.kind != foreign {
		return "", invalid(RuleAlignment, "%s begins at %d with size %d: not whole sectors", s.path, offset, size)
	}
	from := 2 * (d.jsonArea + binarySize)
	if size == 0 || offset < from || offset > math.MaxInt64-size || offset+size > d.headerArea() {
		return "", invalid(RuleAreaBounds, "%s, from %d with size %d, is not inside the keyslots area, from %d to %d",
			s.path, offset, size, from, d.headerArea())
	}
	d.areas = append(d.areas, interval{s.path, offset, offset + size})
	return typ, nil
}

func (d *decoder) luks2Keyslot(s, area *section, areaType string) error {
	if areaType != "raw" {
		return invalid(RuleArea, `%s is of type %q, a "luks2" keyslot has "raw"`, area.path, areaType)
	}
	if _, err := area.string("encryption"); err != nil {
		return err
	}
	if _, err := area.uint32("key_size"); err != nil {
		return err
	}
	af, err := s.object("af")
	if err != nil {
		return err
	}
	if typ, err := af.string("type"); err != nil {
		return err
	} else if typ != "luks1" {
		return invalid(RuleKeyslot, `%s is of type %q, not "luks1"`, af.path, typ)
	}
	if _, err := af.string("hash"); err != nil {
		return err
	}
	if _, err := af.uint32("stripes"); err != nil {
		return err
	}
	kdf, err := s.object("kdf")
	if err != nil {
		return err
	}
	return d.kdf(kdf)
}

func (d *decoder) kdf(kdf *section) error {
	typ, err := kdf.string("type")
	if err != nil {
		return err
	}
	var numbers []string
	count := 0
	switch typ {
	case "pbkdf2":
		numbers, count = []string{"iterations"}, 4
		if _, err := kdf.string("hash"); err != nil {
			return err
		}
	case "argon2i", "argon2id":
		numbers, count = []string{"time", "memory", "cpus"}, 5
	default:
		if d.at.kind == foreign {
			return nil
		}
		return invalid(RuleKeyslot, "%s is of type %q, not pbkdf2, argon2i or argon2id", kdf.path, typ)
	}
	for _, name := range numbers {
		if n, err := kdf.uint32(name); err != nil {
			return err
		} else if n == 0 && d.at.kind != foreign {
			return invalid(RuleNumber, "%q of %s is 0", name, kdf.path)
		}
	}
	if _, err := kdf.string("salt"); d.at.kind == foreign {
		return err
	}
	if err := checkBase64(kdf, "salt"); err != nil {
		return err
	}
	if len(kdf.v.members) != count {
		return invalid(RuleKeyslot, "%s of type %s has members that do not belong there", kdf.path, typ)
	}
	return nil
}

func (d *decoder) reencryptKeyslot(s, area *section, areaType string, keySize uint32) error {
	if keySize != 1 {
		return invalid(RuleKeyslot, `"key_size" of %s is %d, a "reencrypt" keyslot has 1`, s.path, keySize)
	}
	mode, err := s.string("mode")
	if err != nil {
		return err
	}
	if mode != "reencrypt" && mode != "encrypt" && mode != "decrypt" {
		return invalid(RuleKeyslot, `"mode" of %s is %q`, s.path, mode)
	}
	direction, err := s.string("direction")
	if err != nil {
		return err
	}
	if direction != "forward" && direction != "backward" {
		return invalid(RuleKeyslot, `"direction" of %s is %q`, s.path, direction)
	}
	checksum, shift := false, false
	switch areaType {
	case "none", "journal":
	case "checksum":
		checksum = true
	case "datashift", "datashift-journal":
		shift = true
	case "datashift-checksum":
		checksum, shift = true, true
	default:
		if d.at.kind == foreign {
			return nil
		}
		return invalid(RuleArea, `%s is of type %q, which a "reencrypt" keyslot does not have`, area.path, areaType)
	}
	if checksum {
		if _, err := area.string("hash"); err != nil {
			return err
		}
		if n, err := area.uint32("sector_size"); err != nil {
			return err
		} else if n < sectorSize || n&(n-1) != 0 {
			return invalid(RuleArea, `"sector_size" of %s is %d, not a power of two from 512 up`, area.path, n)
		}
	}
	if shift {
		if n, err := area.decimal("shift_size"); err != nil {
			return err
		} else if n == 0 || n%sectorSize != 0 {
			return invalid(RuleArea, `"shift_size" of %s is %d, not whole sectors`, area.path, n)
		}
	}
	return nil
}

func checkPBKDF2Digest(s *section) error {
	if _, err := s.string("hash"); err != nil {
		return err
	}
	if n, err := s.uint32("iterations"); err != nil {
		return err
	} else if n == 0 {
		return invalid(RuleDigest, `"iterations" of %s is 0`, s.path)
	}
	if err := checkBase64(s, "salt"); err != nil {
		return err
	}
	return checkBase64(s, "digest")
}

func checkBase64(s *section, name string) error {
	text, err := s.string(name)
	if err != nil {
		return err
	}
	if _, err := base64.StdEncoding.DecodeString(text); err != nil {
		return invalid(RuleMember, "%q of %s is not base64", name, s.path)
	}
	return nil
}
