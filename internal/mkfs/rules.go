// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// optionRules says which options the configuration may pass to a mkfs program. Only known
// ones are allowed: an extra word would be taken for a device or a size, and several
// options put the filesystem, or its journal, outside the encrypted volume.
type optionRules struct {
	// short lists letters as getopt does: a colon after those with a value.
	short string
	// long lists words without the dashes, with = after those with a value.
	long []string
	// blocks is the letter of the block size, which must not be smaller than
	// the volume's sectors; 0 if the program has no such option.
	blocks byte
	// refused gives the reason for options that exist but must not be used, and for words
	// (up to =, or whole) in the comma-separated value of an option, such as "E offset".
	refused map[string]string
}

const (
	setByUs    = "is set by imxcrypt itself"
	elsewhere  = "would put the filesystem, or a part of it, outside the encrypted volume"
	makesNone  = "would make no filesystem"
	partOnly   = "would not use the whole volume"
	labelField = "sets the label"
	readsFiles = "would fill the filesystem from the running system's files"
	readsOne   = "would read a file of the running system"
)

func ext4Options() optionRules {
	return optionRules{
		short:  "b:cC:De:E:Fg:G:i:I:jJ:m:M:N:o:O:qT:vK",
		blocks: 'b',
		refused: map[string]string{
			"-L": labelField, "-U": setByUs, "-t": "sets the type",
			"-n": makesNone, "-S": makesNone, "-V": makesNone,
			"-z": elsewhere, "E offset": elsewhere, "E android_sparse": elsewhere,
			"-d": readsFiles, "-l": readsOne, "E revision": "would leave out what proves the volume's key",
			"J device": elsewhere, "J location": elsewhere, "O journal_dev": makesNone,
		},
	}
}

func xfsOptions() optionRules {
	return optionRules{
		short: "d:i:Kl:m:n:q",
		refused: map[string]string{
			"-L": labelField, "-f": setByUs, "-b": setByUs, "-s": setByUs,
			"-N": makesNone, "-V": makesNone, "-r": elsewhere, "-c": "would take options from another file",
			"-p": readsFiles, "m crc=0": "would leave out what proves the volume's key",
			"d name": elsewhere, "d file": elsewhere, "d size": partOnly, "d sectsize": setByUs, "d sectlog": setByUs,
			"l logdev": elsewhere, "l name": elsewhere, "l file": elsewhere, "l sectsize": setByUs, "l sectlog": setByUs,
			"m uuid": setByUs,
		},
	}
}

func f2fsOptions() optionRules {
	return optionRules{
		short: "a:C:d:e:E:g:io:O:qrR:s:t:T:z:",
		refused: map[string]string{
			"-l": labelField, "-U": setByUs, "-f": setByUs, "-w": setByUs, "-c": elsewhere, "-S": elsewhere, "-V": makesNone,
			"-m": "is for zoned devices, which dm-crypt volumes are not",
		},
	}
}

func btrfsOptions() optionRules {
	return optionRules{
		short: "d:m:Mn:O:R:Kqv",
		long: []string{"data=", "metadata=", "mixed", "csum=", "checksum=", "nodesize=", "features=",
			"runtime-features=", "nodiscard", "quiet", "verbose"},
		refused: map[string]string{
			"-L": labelField, "--label": labelField, "-U": setByUs, "--uuid": setByUs,
			"-f": setByUs, "--force": setByUs, "-s": setByUs, "--sectorsize": setByUs,
			"-r": readsFiles, "--rootdir": readsFiles, "-u": readsFiles, "--subvol": readsFiles,
			"-b": partOnly, "--byte-count": partOnly, "--shrink": partOnly,
			"-V": makesNone, "--version": makesNone, "--help": makesNone,
		},
	}
}

func vfatOptions() optionRules {
	return optionRules{
		short: "acf:F:g:M:r:R:s:v",
		long:  []string{"codepage=", "variant=", "invariant"},
		refused: map[string]string{
			"-n": labelField, "-i": setByUs, "-I": setByUs, "-S": setByUs,
			"-l": readsOne, "-m": readsOne, "-C": elsewhere, "--offset": elsewhere, "--mbr": "would write a partition table", "--help": makesNone,
		},
	}
}

// CheckOptions calls problem for each option that must not be passed to a volume's mkfs,
// with the index of the word, what is wrong with it and what to do.
func CheckOptions(fstype string, words []string, sectorSize int, problem func(i int, reason, remedy string)) {
	if t, known := typeOf(fstype); known {
		t.options().check(words, sectorSize, problem)
	}
}

// LabelProblem returns what is wrong with a label and what to do; empty if it is
// valid.
func LabelProblem(fstype, label string) (reason, remedy string) {
	t, _ := typeOf(fstype)
	return t.labelProblem(label)
}

func (t fsType) labelProblem(label string) (reason, remedy string) {
	switch {
	case len(label) > t.label:
		return quote(label) + " has " + strconv.Itoa(len(label)) + " bytes; " + t.name + " has room for " + strconv.Itoa(t.label), "shorten it"
	case strings.ContainsAny(label, t.noLabel):
		return quote(label) + " holds a character that " + t.name + " does not take in a label", "use letters, digits, - and _"
	case strings.ContainsFunc(label, unicode.IsControl):
		return quote(label) + " holds a control character", "use letters, digits, - and _"
	case strings.HasPrefix(label, "-"):
		return quote(label) + " begins with a dash, as an option does", "use another label"
	}
	return "", ""
}

// FitLabel makes a label from a name, truncated to what the filesystem can hold.
func FitLabel(fstype, name string) string {
	t, _ := typeOf(fstype)
	name = strings.Map(func(c rune) rune {
		if strings.ContainsRune(t.noLabel, c) {
			return '_'
		}
		return c
	}, name)
	if len(name) <= t.label {
		return name
	}
	n := t.label
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}

// quote quotes a word from the configuration: escaped, and truncated if it is long.
func quote(word string) string { return fmt.Sprintf("%.60q", word) }

// check goes through the words as getopt would. It calls problem with the index of each
// bad word.
func (m optionRules) check(words []string, sectorSize int, problem func(i int, reason, remedy string)) {
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

// checkLong checks a word such as --csum=sha256 and returns how many of the
// words that follow are its value.
func (m optionRules) checkLong(word string, i int, more bool, problem func(int, string, string)) int {
	name, _, hasValue := strings.Cut(word, "=")
	takes := slices.Contains(m.long, name[2:]+"=")
	switch reason := m.refused[name]; {
	case reason != "":
		problem(i, name+" "+reason, refusedRemedy(reason))
	case !takes && !slices.Contains(m.long, name[2:]):
		problem(i, quote(name)+" is not an option that may be given here", m.known())
	case takes && !hasValue && !more:
		problem(i, name+" lacks its value", "write "+name+"=VALUE")
	}
	if takes && !hasValue {
		return 1
	}
	return 0
}

// checkShort checks a word such as -q, -m0 or -qm, the last with its value in
// the next word, and returns how many of the words that follow are its value.
func (m optionRules) checkShort(words []string, i, sectorSize int, problem func(int, string, string)) int {
	word := words[i]
	for j := 1; j < len(word); j++ {
		letter := word[j : j+1]
		if reason := m.refused["-"+letter]; reason != "" {
			problem(i, "-"+letter+" "+reason, refusedRemedy(reason))
			// A word after it without a dash is its value.
			if j+1 == len(word) && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				return 1
			}
			return 0
		}
		at := strings.Index(m.short, letter)
		if at < 0 || letter == ":" {
			problem(i, quote("-"+letter)+" is not an option that may be given here", m.known())
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

func (m optionRules) checkValue(letter byte, value string, i, sectorSize int, problem func(int, string, string)) {
	if strings.ContainsRune(value, 0) {
		problem(i, quote(value)+" holds a zero byte", "remove it")
	}
	if letter == m.blocks && letter != 0 {
		// mke2fs takes a negative size as the least one that it may choose.
		if n, err := strconv.Atoi(strings.TrimPrefix(value, "-")); err != nil || n < sectorSize {
			problem(i, quote(value)+" as the filesystem's block size is not at least the volume's sector_size "+strconv.Itoa(sectorSize),
				"write "+strconv.Itoa(max(sectorSize, 4096))+", or leave the option out")
		}
		return
	}
	for word := range strings.SplitSeq(value, ",") {
		name, _, _ := strings.Cut(word, "=")
		reason := m.refused[string(letter)+" "+strings.TrimSpace(name)]
		if reason == "" {
			reason = m.refused[string(letter)+" "+strings.TrimSpace(word)]
		}
		if reason != "" {
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

func (m optionRules) known() string {
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
