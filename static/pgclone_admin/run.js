/* Keeps the page of a run up to date: asks, waits longer while nothing changes, goes on through
   errors (the site may be in the middle of a swap), rests in a hidden tab, and loads the page once
   more when the run has ended, or when other buttons are of use than before. */
"use strict";

(() => {
    const run = document.querySelector("[data-pgclone-progress]");
    if (!run || !run.hasAttribute("data-active")) {
        return;
    }

    const FIRST = 1500;
    const LONGEST = 6000;
    const LONGEST_AFTER_ERRORS = 15000;

    const notice = run.querySelector("[data-notice]");
    const announcement = run.querySelector("[data-announcement]");
    let pause = FIRST;
    let timer = null;
    let asking = false;
    let before = "";

    function say(text) {
        notice.textContent = text;
        notice.hidden = !text;
    }

    function replace(part, html) {
        if (part.pgcloneShown === html) {
            return;
        }
        part.pgcloneShown = html;
        const open = new Set(Array.from(part.querySelectorAll("details[open]"), (each) => each.id));
        const log = part.querySelector(".pgclone-log");
        const position = log && log.scrollTop;
        const isAtEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
        part.innerHTML = html; // made and escaped by the site's own templates
        for (const each of part.querySelectorAll("details")) {
            each.open = open.has(each.id);
        }
        const now = part.querySelector(".pgclone-log");
        if (now) {
            now.scrollTop = isAtEnd || !log ? now.scrollHeight : position;
        }
    }

    function show(told) {
        say("");
        for (const part of run.querySelectorAll("[data-part]")) {
            if (part.dataset.part in told.parts) {
                replace(part, told.parts[part.dataset.part]);
            }
        }
        if (announcement.textContent !== told.announcement) {
            announcement.textContent = told.announcement;
        }
        const now = [told.status, told.phase, told.bytes_done].join(" ");
        pause = now === before ? Math.min(pause * 1.3, LONGEST) : FIRST;
        before = now;
    }

    async function ask() {
        timer = null;
        if (asking || document.hidden) {
            return;
        }
        asking = true;
        try {
            const answer = await fetch(run.dataset.pgcloneProgress, {
                cache: "no-store",
                credentials: "same-origin",
                headers: { Accept: "application/json" },
                redirect: "manual",
            });
            if (answer.type === "opaqueredirect" || answer.status === 403) {
                // The login page; or a login whose permissions are others than before.
                say(answer.status === 403 ? run.dataset.forbidden : run.dataset.loggedOut);
                pause = LONGEST_AFTER_ERRORS;
            } else if (!answer.ok) {
                throw new Error(String(answer.status));
            } else {
                const told = await answer.json();
                show(told);
                if (!told.active || told.offer !== run.dataset.offer) {
                    window.location.reload();
                    return;
                }
            }
        } catch {
            say(run.dataset.offline);
            pause = Math.min(pause * 1.5, LONGEST_AFTER_ERRORS);
        } finally {
            asking = false;
        }
        later();
    }

    function later() {
        if (timer === null && !document.hidden) {
            timer = window.setTimeout(ask, pause);
        }
    }

    document.addEventListener("visibilitychange", () => {
        window.clearTimeout(timer);
        timer = null;
        if (!document.hidden) {
            pause = FIRST;
            ask();
        }
    });

    for (const log of run.querySelectorAll(".pgclone-log")) {
        log.scrollTop = log.scrollHeight;
    }
    later();
})();
