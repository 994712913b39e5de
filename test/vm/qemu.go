// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// latePorts is the number of free PCIe ports for disks that are added late.
const latePorts = 4

// guest is one run of QEMU, from power-on to the end of the process.
type guest struct {
	dir     string // sockets and initramfs
	child          // QEMU
	channel *channel
	monitor *monitor
	tpm     *child // swtpm, if the board has a TPM
	console string // file on the host
	kernel  string
	booted  time.Duration // host's time from power-on to the agent's hello
	spent   time.Duration // QEMU's processor time until then: the cost of a boot however busy the host is
}

// boot starts QEMU and returns when the agent is ready. After an error nothing
// is left running.
func boot(ctx context.Context, cfg Config, console string) (_ *guest, err error) {
	p, err := cfg.platform()
	if err != nil {
		return nil, err
	}
	if cfg.Suspend {
		if cfg.Arch != AMD64 {
			return nil, fmt.Errorf("%s machines cannot suspend to RAM", cfg.Arch)
		}
		// On wake-up QEMU reloads an unpacked kernel as it was at power-on, over the
		// one that is suspended in memory.
		p.kernelELF = false
	}
	im, err := prepare(ctx, cfg.Arch, p)
	if err != nil {
		return nil, err
	}
	// Not in the test's own folder: the path of a socket is limited to 107 characters.
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return nil, err
	}
	g := &guest{dir: dir, console: console, child: child{ended: make(chan struct{})}}
	defer func() {
		if err != nil {
			g.kill()
		}
	}()
	initrd := cfg.Initramfs
	if initrd == "" {
		initrd = filepath.Join(dir, "initrd")
		if err := writeInitramfs(ctx, initrd, cfg, im); err != nil {
			close(g.ended)
			return nil, err
		}
	}
	var sockets [2]*net.UnixListener
	for i, name := range []string{"agent", "qmp"} {
		// QEMU connects to us, so there is nothing to poll for.
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			close(g.ended)
			return nil, err
		}
		defer l.Close()
		sockets[i] = l
	}
	if board := cfg.Mainline; board != nil && board.Keys == TEE {
		if err := cfg.secureWorld(ctx, im.kernel, initrd, dir); err != nil {
			close(g.ended)
			return nil, err
		}
	}
	args, err := arguments(cfg, p, im, initrd, dir, console)
	if err != nil {
		close(g.ended)
		return nil, err
	}
	var env []string
	if board := cfg.Mainline; board != nil {
		var more []string
		more, env = board.qemu(im, dir)
		args = append(args, more...)
		if board.TPM != nil {
			if g.tpm, err = board.TPM.start(filepath.Join(dir, tpmSocket)); err != nil {
				close(g.ended)
				return nil, err
			}
		}
	}
	began := time.Now()
	if err := g.run(p.qemu, args, env); err != nil {
		close(g.ended)
		return nil, err
	}
	if err := g.connect(ctx, sockets, began); err != nil {
		return nil, err
	}
	// QEMU has read everything, and a machine may outlive every cleanup.
	return g, os.RemoveAll(dir)
}

func arguments(cfg Config, p platform, im *image, initrd, dir, console string) ([]string, error) {
	memory, cpus := cfg.Memory, cfg.CPUs
	if memory == 0 {
		memory = defaultMemory
	}
	if cpus == 0 {
		cpus = 1
	}
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg",
		"-m", strconv.Itoa(memory), "-smp", strconv.Itoa(cpus),
		"-kernel", im.kernel, "-initrd", initrd,
		// A panic ends QEMU (-no-reboot) instead of leaving the test to its time limit.
		"-append", "console=" + p.console + " quiet loglevel=5 panic=-1 mitigations=off cryptomgr.notests=1 random.trust_cpu=on " + p.append + " " + cfg.Append,
		"-chardev", "file,id=console,path=" + console, "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,server=off,path=" + filepath.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=agent,server=off,path=" + filepath.Join(dir, "agent"),
		"-device", "virtio-serial-pci,max_ports=2", "-device", "virtserialport,chardev=agent,name=imxcrypt.guest",
	}, p.machine...)
	for i := range latePorts {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=late%d,chassis=%d,slot=%d", i, i+1, i+1))
	}
	for i, d := range cfg.Disks {
		more, err := d.arguments(i)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return append(args, cfg.QEMUArgs...), nil
}

// run starts QEMU.
func (g *guest) run(name string, args, env []string) error {
	g.cmd = exec.Command(name, args...)
	g.cmd.Env = append(os.Environ(), env...)
	return g.start()
}

// connect accepts QEMU's two connections and waits for the agent.
func (g *guest) connect(ctx context.Context, sockets [2]*net.UnixListener, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Until(began)+bootTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		for _, l := range sockets {
			l.Close()
		}
	})
	defer stop()
	go func() {
		select {
		case <-g.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	agent, err := sockets[0].Accept()
	if err != nil {
		return g.why("QEMU did not open the agent's port", err)
	}
	g.channel = newChannel(agent)
	qmp, err := sockets[1].Accept()
	if err != nil {
		return g.why("QEMU did not open its monitor", err)
	}
	if g.monitor, err = newMonitor(qmp); err != nil {
		return g.why("QEMU's monitor", err)
	}
	select {
	case hello, ok := <-g.channel.hello:
		if !ok {
			return g.why("the guest ended while booting", ErrGone)
		}
		g.kernel, g.booted = hello.Kernel, time.Since(began)
		g.spent, err = processorTime(g.cmd.Process.Pid)
		return err
	case <-ctx.Done():
		return g.why("the guest did not boot", ctx.Err())
	}
}

// processorTime returns the user and system time that a process has used.
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15 of proc(5), in ticks of 10 ms. The second field is the name in
	// parentheses.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: too few fields", pid)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// bootTimeout allows for a machine that shares two cores with much other work, and for
// a distribution's initramfs.
const bootTimeout = 10 * time.Minute

// why adds QEMU's own messages if it has ended.
func (g *guest) why(what string, err error) error {
	select {
	case <-g.ended:
		if g.err != nil || g.output.Len() > 0 {
			return fmt.Errorf("%s: %w: %s", what, errors.Join(ErrGone, g.err), tail(g.output.String(), 10))
		}
	case <-time.After(100 * time.Millisecond):
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kill cuts the power.
func (g *guest) kill() {
	g.child.kill()
	g.close()
}

// close releases what a guest that has ended still holds on the host.
func (g *guest) close() {
	if g.channel != nil {
		g.channel.lose(ErrGone)
	}
	if g.monitor != nil {
		g.monitor.conn.Close()
	}
	if g.tpm != nil {
		g.tpm.kill()
	}
	os.RemoveAll(g.dir)
}
