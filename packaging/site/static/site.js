// SPDX-License-Identifier: Apache-2.0
//
// Plays a terminal recording (asciicast) in place of a link to it. Without this script,
// or from a disk, the link stays.
for (const link of document.querySelectorAll('main a[href$=".cast"]')) {
  fetch(link.href).then(r => r.ok ? r.text() : Promise.reject(r.status)).then(text => {
    const events = text.trim().split("\n").slice(1).map(line => JSON.parse(line));
    const screen = document.createElement("pre"), again = document.createElement("button");
    screen.className = "cast";
    again.textContent = "play";
    let run = 0;
    const play = () => {
      const mine = ++run;
      screen.textContent = "";
      let at = 0, last = 0;
      for (const [time, , data] of events) {
        at += Math.min(time - last, 1.5); // do not wait for the virtual machine
        last = time;
        setTimeout(() => {
          if (mine !== run) return;
          screen.textContent += data.replaceAll("\r", "");
          screen.scrollTop = screen.scrollHeight;
        }, at * 1000);
      }
    };
    again.onclick = play;
    link.after(screen, again);
    screen.textContent = events.map(e => e[2]).join("").replaceAll("\r", "");
  }).catch(() => {});
}
