// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"slices"
	"strconv"
	"strings"
)

// mkfsRules says which options of a mkfs program may be handed to it. Only
// known ones may: a word too many would be taken for a device or a size, and
// several options put the filesystem, or its journal, somewhere else than into
// the encrypted volume.
type mkfsRules struct {
	// short lists letters as getopt does: a colon after those with a value.
	short string
	// long lists words without the dashes, with = after those with a value.
	long []string
	// blocks is the letter of the block size, which must not be smaller than
	// the volume's sectors; 0 if there is none.
	blocks byte
	// refused gives the reason for options that exist and may not be used, and
	// for words (up to =) in the comma-separated value of an option, as "E offset".
	refused map[string]string
}

const (
	setByUs    = "is set by imxcrypt itself"
	elsewhere  = "would put the filesystem, or a part of it, outside the encrypted volume"
	makesNone  = "would make no filesystem"
	partOnly   = "would not use the whole volume"
	labelField = "sets the label"
)

func ext4Options() mkfsRules {
	return mkfsRules{
		short:  "b:cC:d:De:E:Fg:G:i:I:jJ:l:m:M:N:o:O:qT:vK",
		blocks: 'b',
		refused: map[string]string{
			"-L": labelField, "-U": setByUs, "-t": "sets the type",
			"-n": makesNone, "-S": makesNone, "-V": makesNone,
			"-z": elsewhere, "E offset": elsewhere,
			"J device": elsewhere, "J location": elsewhere, "O journal_dev": makesNone,
		},
	}
}

func xfsOptions() mkfsRules {
	return mkfsRules{
		short: "d:i:Kl:m:n:p:q",
		refused: map[string]string{
			"-L": labelField, "-f": setByUs, "-b": setByUs, "-s": setByUs,
			"-N": makesNone, "-V": makesNone, "-r": elsewhere, "-c": "would take options from another file",
			"d name": elsewhere, "d file": elsewhere, "d size": partOnly, "d sectsize": setByUs, "d sectlog": setByUs,
			"l logdev": elsewhere, "l name": elsewhere, "l file": elsewhere, "l sectsize": setByUs, "l sectlog": setByUs,
			"m uuid": setByUs,
		},
	}
}

func f2fsOptions() mkfsRules {
	return mkfsRules{
		short: "a:C:d:e:E:g:io:O:qrR:s:St:T:z:",
		refused: map[string]string{
			"-l": labelField, "-U": setByUs, "-f": setByUs, "-w": setByUs, "-c": elsewhere, "-V": makesNone,
			"-m": "is for zoned devices, which dm-crypt volumes are not",
		},
	}
}

func btrfsOptions() mkfsRules {
	return mkfsRules{
		short: "d:m:Mn:O:R:r:Kqv",
		long: []string{"data=", "metadata=", "mixed", "csum=", "checksum=", "nodesize=", "features=",
			"runtime-features=", "rootdir=", "nodiscard", "quiet", "verbose"},
		refused: map[string]string{
			"-L": labelField, "--label": labelField, "-U": setByUs, "--uuid": setByUs,
			"-f": setByUs, "--force": setByUs, "-s": setByUs, "--sectorsize": setByUs,
			"-b": partOnly, "--byte-count": partOnly, "--shrink": partOnly,
			"-V": makesNone, "--version": makesNone, "--help": makesNone,
		},
	}
}

func vfatOptions() mkfsRules {
	return mkfsRules{
		short: "acf:F:g:M:r:R:s:v",
		long:  []string{"codepage=", "variant=", "invariant"},
		refused: map[string]string{
			"-n": labelField, "-i": setByUs, "-I": setByUs, "-S": setByUs,
			"-C": elsewhere, "--offset": elsewhere, "--mbr": "would write a partition table", "--help": makesNone,
		},
	}
}

// check goes over the words as getopt would. problem is called with the index
// of each bad word.
func (m mkfsRules) check(words []string, sectorSize int, problem func(i int, reason, remedy string)) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case strings.ContainsRune(word, 0):
			problem(i, quote(word)+" holds a zero byte", "remove it")
		case word == "--" || !strings.HasPrefix(word, "-") || word == "-":
			problem(i, "mkfs would take "+quote(word)+" for a device or a size", "give options only; imxcrypt names the device")
		case strings.HasPrefix(word, "--"):
			i += m.checkLong(word, i, i+1 < len(words), problem)
		default:
			i += m.checkShort(words, i, sectorSize, problem)
		}
	}
}

// checkLong judges a word such as --csum=sha256 and returns how many of the
// words that follow are its value.
func (m mkfsRules) checkLong(word string, i int, more bool, problem func(int, string, string)) int {
	name, _, hasValue := strings.Cut(word, "=")
	takes := slices.Contains(m.long, name[2:]+"=")
	switch reason := m.refused[name]; {
	case reason != "":
		problem(i, name+" "+reason, refusedRemedy(reason))
	case !takes && !slices.Contains(m.long, name[2:]):
		problem(i, quote(name)+" is no option that may be given here", m.known())
	case takes && !hasValue && !more:
		problem(i, name+" lacks its value", "write "+name+"=VALUE")
	}
	if takes && !hasValue {
		return 1
	}
	return 0
}

// checkShort judges a word such as -q, -m0 or -qm, the last with its value in
// the next word, and returns how many of the words that follow are its value.
func (m mkfsRules) checkShort(words []string, i, sectorSize int, problem func(int, string, string)) int {
	word := words[i]
	for j := 1; j < len(word); j++ {
		letter := word[j : j+1]
		if reason := m.refused["-"+letter]; reason != "" {
			problem(i, "-"+letter+" "+reason, refusedRemedy(reason))
			// Whatever stands behind it without a dash is its value.
			if j+1 == len(word) && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				return 1
			}
			return 0
		}
		at := strings.Index(m.short, letter)
		if at < 0 || letter == ":" {
			problem(i, quote("-"+letter)+" is no option that may be given here", m.known())
			return 0
		}
		if !strings.HasPrefix(m.short[at+1:], ":") {
			continue
		}
		value, used := word[j+1:], 0
		if strings.HasPrefix(value, " ") {
			problem(i, quote(word)+" is more than one word", "write each as an item of its own")
			return 0
		}
		if value == "" {
			if i+1 == len(words) {
				problem(i, "-"+letter+" lacks its value", "give it as the next item")
				return 0
			}
			value, used = words[i+1], 1
		}
		m.checkValue(letter[0], value, i+used, sectorSize, problem)
		return used
	}
	return 0
}

func (m mkfsRules) checkValue(letter byte, value string, i, sectorSize int, problem func(int, string, string)) {
	if strings.ContainsRune(value, 0) {
		problem(i, quote(value)+" holds a zero byte", "remove it")
	}
	if letter == m.blocks && letter != 0 {
		if n, err := strconv.Atoi(value); err != nil || n < sectorSize {
			problem(i, quote(value)+" as the filesystem's block size is not at least the volume's sector_size "+strconv.Itoa(sectorSize),
				"write "+strconv.Itoa(max(sectorSize, 4096))+", or leave the option out")
		}
		return
	}
	for word := range strings.SplitSeq(value, ",") {
		name, _, _ := strings.Cut(word, "=")
		if reason := m.refused[string(letter)+" "+strings.TrimSpace(name)]; reason != "" {
			problem(i, "-"+string(letter)+" "+name+" "+reason, refusedRemedy(reason))
		}
	}
}

func refusedRemedy(reason string) string {
	if field, ok := strings.CutPrefix(reason, "sets the "); ok {
		return "use the field " + field
	}
	return "leave it out"
}

func (m mkfsRules) known() string {
	var b strings.Builder
	for _, letter := range m.short {
		if letter != ':' {
			b.WriteString(" -" + string(letter))
		}
	}
	for _, word := range m.long {
		b.WriteString(" --" + strings.TrimSuffix(word, "="))
	}
	return "those that may are" + b.String()
}
