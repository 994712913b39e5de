// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"imxcrypt/test/vm"
)

// sectorMappings makes /dev/mapper/s512 and s4096 over RAM disks, with a key of the
// simulated CAAM, using the same tables as the program.
const sectorMappings = `cd /root
imxcrypt key create sectors --dir /root >/dev/null
import sectors.bb sectors.key
id=$(keyctl padd logon bench:sectors @us <sectors.key)
modprobe brd rd_nr=2 rd_size=4096
for size in 512 4096; do
	device=/dev/ram$((size / 4096))
	dmsetup create s$size --table "0 8192 crypt capi:tk(cbc(aes))-plain64 :$(stat -c %s sectors.key):logon:bench:sectors 0 $device 0 2 sector_size:$size iv_large_sectors"
done
keyctl unlink "$id" @us >/dev/null
rm sectors.key`

// sectorRounds is how often each size is read and written at each latency.
const sectorRounds = 5

// sectorSizes compares sectors of 512 and 4096 bytes on hardware that needs time for
// each job, which is one per sector. The two take turns, so that other work on the host
// slows both; the result is the median of the rounds' ratios.
func (h *host) sectorSizes(m *vm.Machine, o options) {
	const parameter = "/sys/module/imxcrypt_simcaam/parameters/latency_us"
	m.MustSh(sectorMappings)
	unit := "medians"
	if o.counted {
		unit = "in instructions, 1 ns each, " + unit
	}
	fmt.Printf("sectors of 512 and 4096 bytes, by what a job of the CAAM takes more, %d rounds in turn, %s:\n", sectorRounds, unit)
	for _, latency := range []int{0, 20, 100} {
		m.MustSh(fmt.Sprintf("echo %d >%s", latency, parameter))
		for _, what := range []struct{ name, dd string }{
			{"read", "dd if=/dev/mapper/s%d of=/dev/null bs=256k count=%d iflag=direct"},
			{"written", "dd if=/dev/zero of=/dev/mapper/s%d bs=256k count=%d oflag=direct"},
		} {
			var small, large, ratio []float64
			for range sectorRounds {
				s, l := h.throughput(m, what.dd, 512, 4), h.throughput(m, what.dd, 4096, 16)
				small, large, ratio = append(small, s), append(large, l), append(ratio, l/s)
			}
			fmt.Printf("  %3d µs, %-7s  512: %6.1f MiB/s   4096: %6.1f MiB/s   4096 / 512: %.1f\n",
				latency, what.name, median(small), median(large), median(ratio))
		}
	}
	m.MustSh("echo 0 >" + parameter + "; dmsetup remove s512; dmsetup remove s4096; rmmod brd")
}

// throughput runs dd for that many requests of 256 KiB and returns MiB per second,
// without the time for starting dd and for opening and closing the device.
func (h *host) throughput(m *vm.Machine, dd string, sector, requests int) float64 {
	run := func(count int) time.Duration {
		r := m.Sh(fmt.Sprintf(dd, sector, count))
		if r.Code != 0 {
			h.Fatalf("%s: %v", dd, r)
		}
		return r.Duration
	}
	took := run(requests) - run(0)
	if took <= 0 {
		h.Fatalf("%s: the host is too busy to measure anything", dd)
	}
	return float64(requests) / 4 / took.Seconds()
}
