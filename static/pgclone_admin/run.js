/* Keeps the page of a run up to date: asks, waits longer while nothing changes, goes on through
   errors (the site may be in the middle of a swap), rests in a hidden tab, and loads the page once
   more when the run has ended, or when other buttons are of use than before. The keyboard and what
   was scrolled stay where they are, and who listens hears how the run has ended. */
"use strict";

(() => {
    const run = document.querySelector("[data-pgclone-progress]");
    if (!run) {
        return;
    }

    const FIRST = 1500;
    const LONGEST = 6000;
    const LONGEST_AFTER_ERRORS = 15000;

    const UNTIL_HEARD = 1500;
    const LOADED_ANEW = "pgclone-loaded-anew";
    const SCROLLED = ".pgclone-log, pre";

    const notice = run.querySelector("[data-notice]");
    const announcement = run.querySelector("[data-announcement]");
    const title = document.title.startsWith(announcement.textContent)
        ? document.title.slice(announcement.textContent.length)
        : ` | ${document.title}`;
    let pause = FIRST;
    let timer = null;
    let asking = false;
    let ended = false;
    let before = "";

    function say(text) {
        notice.textContent = text;
        notice.hidden = !text;
    }

    function opened(part) {
        return Array.from(part.querySelectorAll("details[open]"), (each) => each.id);
    }

    function replace(part, html) {
        if (part.pgcloneShown === html) {
            return;
        }
        part.pgcloneShown = html;
        const open = new Set(opened(part));
        const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
        const positions = new Map();
        for (const each of part.querySelectorAll(SCROLLED)) {
            const isAtEnd = each.scrollTop + each.clientHeight >= each.scrollHeight - 4;
            positions.set(each.id, isAtEnd ? null : each.scrollTop);
        }
        part.innerHTML = html; // made and escaped by the site's own templates
        for (const each of part.querySelectorAll("details")) {
            each.open = open.has(each.id);
        }
        for (const each of part.querySelectorAll(SCROLLED)) {
            each.scrollTop = positions.get(each.id) ?? each.scrollHeight;
        }
        focus(focused);
    }

    function focus(id) {
        const element = id && document.getElementById(id);
        if (element) {
            element.focus({ preventScroll: true });
        }
    }

    function loadAnew() {
        const kept = {
            path: window.location.pathname,
            focused: document.activeElement.id,
            open: opened(run),
        };
        try {
            window.sessionStorage.setItem(LOADED_ANEW, JSON.stringify(kept));
        } catch {
            // The browser keeps nothing: the page is loaded all the same.
        }
        window.location.reload();
    }

    function arrive() {
        let kept = null;
        try {
            kept = JSON.parse(window.sessionStorage.getItem(LOADED_ANEW));
            window.sessionStorage.removeItem(LOADED_ANEW);
        } catch {
            return;
        }
        if (!kept || kept.path !== window.location.pathname) {
            return;
        }
        for (const each of run.querySelectorAll("details")) {
            each.open = each.open || kept.open.includes(each.id);
        }
        focus(kept.focused);
        // What stands there when a page is loaded is not read out; what comes later is.
        const said = announcement.textContent;
        announcement.textContent = "";
        window.setTimeout(() => {
            announcement.textContent = said;
        }, UNTIL_HEARD);
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
            document.title = told.announcement + title;
        }
        // Not by loading anew: that could come in the middle of the swap.
        for (const each of document.querySelectorAll("[data-button=cancel]")) {
            each.hidden = !told.stoppable;
        }
        const now = [told.status, told.phase, told.bytes_done].join(" ");
        pause = now === before ? Math.min(pause * 1.3, LONGEST) : FIRST;
        before = now;
    }

    async function ask() {
        timer = null;
        if (asking || ended || document.hidden) {
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
                    window.setTimeout(loadAnew, UNTIL_HEARD);
                    ended = true;
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

    arrive();
    if (!run.hasAttribute("data-active")) {
        return;
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
