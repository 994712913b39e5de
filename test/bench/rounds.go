// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imxcrypt/test/vm"
)

// The names of the runs.
const (
	hello       = "Go hello world"
	version     = "imxcrypt version"
	floorOne    = "floor in C, 1 volume"
	recipeOne   = "shell recipe, 1 volume"
	programOne  = "imxcrypt boot, 1 volume"
	unlockOne   = "imxcrypt unlock --mount"
	otherOne    = "the other program, 1 volume"
	otherUnlock = "the other program, unlock"
	floorAll    = "floor in C, 8 volumes"
	recipeAll   = "shell recipe, 8 volumes"
	programAll  = "imxcrypt boot, 8 volumes"
	otherAll    = "the other program, 8 volumes"
)

// run is one of the measured commands.
type run struct {
	name   string
	argv   []string
	times  []time.Duration // one for each round
	memory []int           // KiB
}

// runsOf returns the runs for a list of volumes. It includes the runs over all volumes
// only if there are several.
func runsOf(list []volume, other bool) []*run {
	runs := []*run{
		{name: hello, argv: []string{"hello"}},
		{name: version, argv: []string{"imxcrypt", "version"}},
		{name: floorOne, argv: byHand("floor", list[:1])},
		{name: recipeOne, argv: byHand("recipe", list[:1])},
		{name: programOne, argv: program(list[:1], "imxcrypt", "boot")},
		{name: unlockOne, argv: program(list[:1], "imxcrypt", "unlock", "--mount")},
	}
	if other {
		runs = append(runs, &run{name: otherOne, argv: program(list[:1], "other", "boot")},
			&run{name: otherUnlock, argv: program(list[:1], "other", "unlock", "--mount")})
	}
	if len(list) == 1 {
		return runs
	}
	runs = append(runs, &run{name: floorAll, argv: byHand("floor", list)},
		&run{name: recipeAll, argv: byHand("recipe", list)},
		&run{name: programAll, argv: program(list, "imxcrypt", "boot")})
	if other {
		runs = append(runs, &run{name: otherAll, argv: program(list, "other", "boot")})
	}
	return runs
}

// measure runs all of them in turn, for the given number of rounds plus one, which
// fills the page cache and is not counted.
func (h *host) measure(m *vm.Machine, runs []*run, rounds int) {
	for round := range rounds + 1 {
		for _, r := range runs {
			took, memory := h.stopwatch(m, r.argv)
			closeAll(m)
			if round > 0 {
				r.times, r.memory = append(r.times, took), append(r.memory, memory)
			}
		}
	}
}

// stopwatch runs a program in the guest with test/bench/guest/stopwatch.c.
func (h *host) stopwatch(m *vm.Machine, argv []string) (took time.Duration, memory int) {
	r := m.Run(append([]string{"stopwatch"}, argv...)...)
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	words := strings.Fields(lines[len(lines)-1])
	if r.Code != 0 || len(words) != 5 || words[0] != "stopwatch:" {
		h.Fatalf("%s: %v", strings.Join(argv, " "), r)
	}
	ns, err1 := strconv.ParseInt(words[1], 10, 64)
	memory, err2 := strconv.Atoi(words[3])
	if err1 != nil || err2 != nil {
		h.Fatalf("%s: %v", strings.Join(argv, " "), r)
	}
	return time.Duration(ns), memory
}

func (r *run) String() string {
	t := slices.Sorted(slices.Values(r.times))
	return fmt.Sprintf("%-28s %7.1f ms  (%.1f to %.1f)", r.name, ms(median(t)), ms(t[0]), ms(t[len(t)-1]))
}

// ratios compares the measurements with the project's targets.
func ratios(runs []*run, o options) []string {
	times := func(name string) []time.Duration {
		for _, r := range runs {
			if r.name == name {
				return r.times
			}
		}
		return nil
	}
	sum := func(round int, names []string) (all time.Duration) {
		for _, name := range names {
			all += times(name)[round]
		}
		return all
	}
	ratioOf := func(what string, target float64, a, b []string) string {
		var all []float64
		for round := range times(a[0]) {
			all = append(all, float64(sum(round, a))/float64(sum(round, b)))
		}
		text := fmt.Sprintf("%-48s %5.2f", what, median(all))
		if target > 0 {
			text += fmt.Sprintf("  (target at most %.2f)", target)
		}
		return text
	}
	ratio := func(what string, target float64, a string, b ...string) string {
		return ratioOf(what, target, []string{a}, b)
	}
	target := map[string]float64{sourceCAAM: 0.45, sourceTrusted: 0.5}[o.source]
	list := []string{
		ratio("1 volume / shell recipe", target, programOne, recipeOne),
		ratio("unlock --mount / shell recipe", target, unlockOne, recipeOne),
		ratio("unlock --mount / boot, 1 volume", 0, unlockOne, programOne),
		ratio("1 volume / (floor in C + Go hello world)", 1.3, programOne, floorOne, hello),
		// Where the program would be if, once started, it were as quick as the floor.
		ratioOf("(floor + imxcrypt version) / (floor + hello)", 0, []string{floorOne, version}, []string{floorOne, hello}),
	}
	if o.volumes() > 1 {
		list = append(list, ratio("8 volumes / shell recipe", 0, programAll, recipeAll))
	}
	if o.volumes() > 1 && !o.counted {
		list = append(list, ratio("8 volumes / 1 volume, two processors", 3, programAll, programOne))
	}
	if o.against != "" {
		list = append(list, ratio("1 volume / the other program", 0, programOne, otherOne),
			ratio("unlock --mount / the other program", 0, unlockOne, otherUnlock))
	}
	if o.against != "" && o.volumes() > 1 {
		list = append(list, ratio("8 volumes / the other program", 0, programAll, otherAll))
	}
	return list
}

// breakdown returns the steps of one volume as reported by -v, and the remainder until
// the process ends. For its start, -v knows only the processor time; the difference to
// the wall-clock time is part of the remainder too.
func (h *host) breakdown(m *vm.Machine, name string, rounds int) []string {
	var order []string
	steps := map[string][]time.Duration{}
	add := func(step string, took time.Duration) {
		if _, known := steps[step]; !known {
			order = append(order, step)
		}
		steps[step] = append(steps[step], took)
	}
	for range rounds {
		r := m.Run("stopwatch", "imxcrypt", "boot", "-v", name)
		closeAll(m)
		var sum time.Duration
		for line := range strings.Lines(r.Stderr) {
			line = strings.TrimSpace(line)
			if ns, ok := strings.CutPrefix(line, "stopwatch: "); ok {
				ns, _, _ = strings.Cut(ns, " ")
				all, err := strconv.ParseInt(ns, 10, 64)
				if err != nil {
					h.Fatalf("%v", r)
				}
				add("key unlinked, records, printing, process end", time.Duration(all)-sum)
				continue
			}
			// "v0: header read (1.2 ms)"
			step, number, ok := strings.Cut(strings.TrimSuffix(line, " ms)"), " (")
			took, err := strconv.ParseFloat(number, 64)
			if !ok || err != nil {
				continue
			}
			_, step, _ = strings.Cut(step, ": ")
			add(step, time.Duration(took*float64(time.Millisecond)))
			sum += time.Duration(took * float64(time.Millisecond))
		}
	}
	var lines []string
	for _, step := range order {
		slices.Sort(steps[step])
		lines = append(lines, fmt.Sprintf("%-46s %7.1f ms", step, ms(median(steps[step]))))
	}
	return lines
}

func median[T time.Duration | float64 | int](list []T) T {
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
