// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// metric is one family of samples in Prometheus' text format, version 0.0.4.
// All are gauges. Names and labels are an interface.
type metric struct {
	name, help string
	samples    []string
}

func (m *metric) add(value float64, labels ...string) {
	var l []string
	for i := 0; i+1 < len(labels); i += 2 {
		// The format escapes backslash, quote and line feed as Go does; device
		// and volume names hold nothing else that Go would escape differently.
		l = append(l, labels[i]+`="`+strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(labels[i+1])+`"`)
	}
	m.samples = append(m.samples, m.name+"{"+strings.Join(l, ",")+"} "+strconv.FormatFloat(value, 'f', -1, 64))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// writeMetrics prints the state of the volumes for node-exporter's textfile
// collector.
func writeMetrics(w io.Writer, all []volumeStatus) error {
	up := &metric{name: "imxcrypt_volume_up", help: "1 if the volume is up: mounted if it has a mount point, otherwise unlocked."}
	required := &metric{name: "imxcrypt_volume_required", help: "1 if the system cannot do without the volume."}
	state := &metric{name: "imxcrypt_volume_state", help: "1 for the state that the volume is in."}
	wrong := &metric{name: "imxcrypt_volume_problem", help: "1 for the code of the volume's problem."}
	bytes := &metric{name: "imxcrypt_volume_size_bytes", help: "Size of the volume's data."}
	gen := &metric{name: "imxcrypt_key_generation", help: "Generation of the volume's key, counted from 1."}
	created := &metric{name: "imxcrypt_key_created_timestamp_seconds", help: "When the key was made; time() minus it is the key's age."}
	open := &metric{name: "imxcrypt_key_open_state", help: "1 if the key was made while the chip was open: it protects nothing."}
	ratio := &metric{name: "imxcrypt_rotation_progress_ratio", help: "Part of the data that is under the new key, 0 to 1, while the volume is rotated."}
	duration := &metric{name: "imxcrypt_last_unlock_duration_seconds", help: "How long the latest unlocking since boot took."}
	at := &metric{name: "imxcrypt_last_unlock_timestamp_seconds", help: "When the latest unlocking since boot was done."}
	for _, s := range all {
		v := []string{"volume", s.Name}
		up.add(truth(s.Up()), v...)
		required.add(truth(s.required), v...)
		for _, name := range volume.States() {
			state.add(truth(s.State == name), "volume", s.Name, "state", string(name))
		}
		if err := s.wrong(); err != nil {
			wrong.add(1, "volume", s.Name, "code", string(fault.CodeOf(err)))
		}
		if s.Generation > 0 {
			bytes.add(float64(s.Size), v...)
			gen.add(float64(s.Generation), v...)
			open.add(truth(s.SecurityState == "open"), v...)
		}
		if !s.Created.IsZero() {
			created.add(float64(s.Created.Unix()), v...)
		}
		if r := s.Rotation; r != nil && r.Total > 0 {
			ratio.add(float64(r.Done)/float64(r.Total), v...)
		}
		if u := s.LastUnlock; u != nil {
			duration.add(u.Took.Seconds(), v...)
			at.add(float64(u.At.UnixMilli())/1000, v...)
		}
	}
	var b strings.Builder
	for _, m := range []*metric{up, required, state, wrong, bytes, gen, created, open, ratio, duration, at} {
		if len(m.samples) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s\n", m.name, m.help, m.name, strings.Join(m.samples, "\n"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
