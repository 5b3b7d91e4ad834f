// Keeps the page live: hears the stream, fetches the part that changes, and puts it in place without
// taking away focus, scroll, what is unfolded or what is being typed. Without this script all is there
// to read and every form works; it is then as old as the last load.
(() => {
  'use strict';

  const LEAST_MS = 1000; // between two looks
  const QUIET_MS = 30_000; // nothing said so: some things change by time alone
  const DOWN_MS = 10_000; // between two looks while the stream is down
  const RECONNECT_MS = 3000;

  const live = document.getElementById('live');
  const state = document.getElementById('state');
  const away = document.getElementById('away');
  const said = document.getElementById('said');
  if (!live || !state) return;

  // ---- times tick, by the database's clock

  let ahead = 0;
  const setClock = () => { ahead = Date.parse(live.dataset.now) - Date.now(); };
  const clock = (date) => date.toLocaleTimeString([], { hour12: false });

  function span(seconds) {
    if (seconds < 100) return `${seconds} s`;
    if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86_400)} d`;
  }

  function say(time, now) {
    const from = Math.trunc((Date.parse(time.dateTime) - now) / 1000);
    if (time.className === 'for') return span(Math.max(0, -from));
    if (from > 0) return `in ${span(from)}`;
    return from > -2 ? 'just now' : `${span(-from)} ago`;
  }

  function tick() {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll('time')) {
      const words = say(time, now);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  // ---- putting in place what has changed

  const theirs = (element, name) =>
    (name === 'open' && /^(DETAILS|DIALOG)$/.test(element.tagName)) ||
    (name === 'value' && element.tagName === 'INPUT');

  function morph(old, fresh) {
    for (const { name, value } of fresh.attributes) {
      if (theirs(old, name) || old.getAttribute(name) === value) continue;
      if (name === 'data-state') highlight(old);
      old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !theirs(old, name)) old.removeAttribute(name);
    }
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const here = match(old, place, wanted);
      if (!here) {
        old.insertBefore(wanted, place);
        if (wanted.id) highlight(wanted);
        continue;
      }
      if (here === place) place = place.nextSibling;
      else old.insertBefore(here, place);
      if (here.nodeType === Node.ELEMENT_NODE) morph(here, wanted);
      else if (here.data !== wanted.data) here.data = wanted.data;
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  // Rows are known by their id; everything else by where it stands.
  function match(parent, place, wanted) {
    if (wanted.id) {
      const known = document.getElementById(wanted.id);
      return known && known.parentNode === parent && known.tagName === wanted.tagName ? known : null;
    }
    return place && !place.id && place.nodeName === wanted.nodeName ? place : null;
  }

  function highlight(element) {
    element.classList.add('fresh');
    element.addEventListener('animationend', () => element.classList.remove('fresh'), { once: true });
  }

  function show(fresh) {
    const focused = document.activeElement;
    const says = live.dataset.says;
    morph(live, fresh);
    if (focused && focused !== document.activeElement && focused.isConnected) {
      focused.focus({ preventScroll: true });
    }
    setClock();
    tick();
    document.title = `${live.dataset.title} · backstop`;
    if (live.dataset.says !== says) said.textContent = live.dataset.says;
  }

  // ---- looking, and what is known of how fresh all of it is

  let looking = false;
  let again = false;
  let lastLook = Date.now();
  let timer = 0;
  let heard = false; // whether the stream is up
  let downSince = null;
  let awaySince = null;
  let ended = false;

  function lookIn(ms) {
    clearTimeout(timer);
    timer = setTimeout(look, Math.max(0, ms));
  }

  const pause = () => (heard && !awaySince ? QUIET_MS : DOWN_MS);
  const lookSoon = () => (looking ? (again = true) : lookIn(lastLook + LEAST_MS - Date.now()));

  async function look() {
    if (looking || ended || document.hidden) return;
    looking = true;
    again = false;
    lastLook = Date.now();
    try {
      const answer = await fetch(location.href, {
        headers: { 'backstop-fragment': '1' },
        cache: 'no-store',
        signal: AbortSignal.timeout(15_000),
      });
      if (answer.status === 401) {
        ended = true;
        deafen();
      } else if (!answer.ok) throw new Error(String(answer.status));
      else {
        const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
        show(page.getElementById('live'));
        awaySince = null;
      }
    } catch {
      awaySince ??= new Date();
    }
    looking = false;
    tell();
    if (!ended) lookIn(again ? LEAST_MS : pause());
  }

  function tell() {
    const words = state.querySelector('.words');
    let now = 'connecting';
    let text = 'Connecting…';
    if (ended || awaySince) [now, text] = ['away', ended ? 'Signed out' : 'Not up to date'];
    else if (heard) [now, text] = ['live', 'Live'];
    else if (downSince) [now, text] = ['polling', `Stream down since ${clock(downSince)}, looking every 10 s`];
    state.dataset.state = now;
    if (words.textContent !== text) words.textContent = text;
    state.title = `as of ${clock(new Date(Date.parse(live.dataset.now)))}`;
    warn();
  }

  // Above everything, and read out at once.
  function warn() {
    if (!ended && !awaySince) {
      away.hidden = true;
      away.replaceChildren();
      return;
    }
    const text = document.createElement('span');
    const link = document.createElement('a');
    if (ended) {
      link.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
      link.textContent = 'Sign in again';
      text.append('Your session has ended. What you see is how it stood then. ', link);
    } else {
      link.href = location.href;
      link.textContent = 'Reload';
      const asOf = clock(new Date(Date.parse(live.dataset.now)));
      text.append(`backstop has not answered since ${clock(awaySince)}. What you see is how it stood at ${asOf}. `, link);
    }
    if (away.textContent !== text.textContent) away.replaceChildren(text);
    away.hidden = false;
  }

  // ---- the stream

  let source = null;
  let retry = 0;
  const bare = (id) => id.toLowerCase().replaceAll('-', '');
  const [, about] = /^\/provisions\/([^/]+)/.exec(location.pathname) ?? [];

  function hear() {
    clearTimeout(retry);
    source = new EventSource('/v1/stream');
    source.onopen = () => {
      const missed = downSince !== null;
      heard = true;
      downSince = null;
      tell();
      if (missed || awaySince) lookSoon();
    };
    source.onerror = () => {
      const isNew = downSince === null;
      heard = false;
      downSince ??= new Date();
      // The browser tries again by itself, but not after an answer that is none.
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(hear, RECONNECT_MS);
      tell();
      if (isNew) lookSoon();
    };
    source.addEventListener('provision', (event) => {
      if (!about || bare(JSON.parse(event.data).id) === bare(about)) lookSoon();
    });
  }

  function deafen() {
    clearTimeout(retry);
    clearTimeout(timer);
    if (source) source.close();
    source = null;
    heard = false;
  }

  // A browser has six connections to a host: tabs that nobody sees must not hold them.
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) deafen();
    else if (!ended) {
      hear();
      lookSoon();
    }
  });
  addEventListener('pagehide', deafen);
  addEventListener('pageshow', (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll('[data-sent]')) delete form.dataset.sent;
    for (const button of document.querySelectorAll('[aria-busy]')) button.removeAttribute('aria-busy');
    if (ended) return;
    hear();
    lookSoon();
  });

  // ---- small things

  document.addEventListener('click', (event) => {
    const opener = event.target.closest('[data-dialog]');
    const dialog = opener && document.getElementById(opener.dataset.dialog);
    if (!dialog || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    dialog.showModal();
  });
  document.addEventListener('submit', (event) => {
    if (event.target.method !== 'post') return;
    // Once is enough.
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = 'yes';
    event.submitter?.setAttribute('aria-busy', 'true');
  });
  if (new URLSearchParams(location.search).has('said')) {
    const address = new URL(location.href);
    address.searchParams.delete('said');
    history.replaceState(null, '', address);
  }

  setClock();
  tick();
  setInterval(tick, 1000);
  tell();
  hear();
  lookIn(QUIET_MS);
})();
