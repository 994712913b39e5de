// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// cast writes an asciicast, version 2: a line of JSON for the terminal, and one for
// each piece of output with its time. asciinema and the documentation's site can play
// it.
type cast struct {
	w     io.Writer
	start time.Time
}

func newCast(w io.Writer) *cast {
	c := &cast{w: w, start: time.Now()}
	fmt.Fprintf(w, `{"version": 2, "width": 100, "height": 36, "idle_time_limit": 2, "timestamp": %d, "title": "imxcrypt: a virtual board, from provisioning to unlocking at boot"}`+"\n", c.start.Unix())
	return c
}

func (c *cast) Write(p []byte) (int, error) {
	text, err := json.Marshal(strings.ReplaceAll(string(p), "\n", "\r\n"))
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(c.w, "[%.3f, \"o\", %s]\n", time.Since(c.start).Seconds(), text); err != nil {
		return 0, err
	}
	return len(p), nil
}
