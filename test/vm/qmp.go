// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// monitor is a connection to QEMU's QMP (docs/interop/qmp-spec in QEMU's sources). It
// sends one command at a time and drops events.
type monitor struct {
	mu   sync.Mutex
	conn net.Conn
	in   *json.Decoder
}

// qmpTimeout bounds one command. QEMU answers at once unless it hangs.
const qmpTimeout = 5 * time.Minute

func newMonitor(conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, in: json.NewDecoder(conn)}
	var greeting struct{ QMP json.RawMessage }
	conn.SetDeadline(time.Now().Add(qmpTimeout))
	if err := m.in.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("qmp greeting: %w", err)
	}
	_, err := m.command("qmp_capabilities", nil)
	return m, err
}

func (m *monitor) command(name string, arguments any) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn.SetDeadline(time.Now().Add(qmpTimeout))
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return nil, fmt.Errorf("qmp %s: %w: %w", name, ErrGone, err)
	}
	for {
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Class string `json:"class"`
				Desc  string `json:"desc"`
			} `json:"error"`
			Event string `json:"event"`
		}
		if err := m.in.Decode(&answer); err != nil {
			return nil, fmt.Errorf("qmp %s: %w: %w", name, ErrGone, err)
		}
		switch {
		case answer.Error != nil:
			return nil, fmt.Errorf("qmp %s: %s: %s", name, answer.Error.Class, answer.Error.Desc)
		case answer.Return != nil:
			return answer.Return, nil
		}
	}
}
