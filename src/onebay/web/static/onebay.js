// What plain forms cannot do: progress without loading anew, and sending an image. Everything else works without.
"use strict";

function watch(root) {
  const box = root.querySelector("[data-watch]");
  if (!box) return;
  const stream = new EventSource(box.dataset.watch);
  let spoken = -1;
  stream.onmessage = (message) => {
    const job = JSON.parse(message.data);
    const bar = document.getElementById("bar");
    if (bar) {
      if (job.share === null) bar.removeAttribute("value");
      else bar.value = job.share;
      const word = document.querySelector("#now strong");
      word.textContent = job.word;
      word.className = "state " + job.state;
      document.getElementById("figures").textContent = job.figures;
      const log = document.getElementById("log");
      if (log.textContent !== job.log) {
        log.textContent = job.log;
        log.scrollTop = log.scrollHeight;
      }
      // a screen reader hears every tenth, not every half second
      const tenth = job.share === null ? -1 : Math.floor(job.share * 10);
      if (tenth !== spoken) {
        spoken = tenth;
        document.getElementById("spoken").textContent = job.word + " " + job.figures;
      }
    }
    if (job.over) {
      stream.close();
      load(location.href);
    }
  };
  stream.onerror = () => {
    // the server is gone for a moment, or we were logged out: the page tells
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
  };
}

let place = location.pathname; // of the page that is shown

async function load(url, options) {
  show(await fetch(url, options));
}

async function show(answer) {
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const main = page.querySelector("main");
  if (!main) return location.reload();
  document.title = page.title;
  document.querySelector("main").replaceWith(document.importNode(main, true));
  if (answer.url !== location.href) history.pushState(null, "", answer.url);
  place = location.pathname;
  begin();
  document.querySelector("main").focus();
}

let chosen = null; // the image, between its plan and its upload

async function plan(form) {
  chosen = form.querySelector("input[type=file]").files[0];
  const said = form.querySelector(".said");
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    // most images tell what they are in their first megabytes, a few need more
    for (const size of [4 << 20, 64 << 20]) {
      const answer = await fetch(form.dataset.head, { method: "POST", body: chosen.slice(0, size) });
      if (!answer.ok) return show(answer);
      const found = await answer.json();
      if (!found.short || chosen.size <= size || size === 64 << 20) return load(found.page);
    }
  } catch (error) {
    said.textContent = String(error);
  } finally {
    button.disabled = false;
  }
}

function upload(root) {
  const box = root.querySelector("[data-upload]");
  if (!box || !chosen) return;
  const request = new XMLHttpRequest();
  request.open("POST", box.dataset.upload);
  request.send(chosen);
  chosen = null;
}

function begin() {
  const root = document.querySelector("main");
  for (const form of root.querySelectorAll("form")) {
    form.addEventListener("submit", (event) => {
      if ("head" in form.dataset) {
        event.preventDefault();
        plan(form);
      } else if ("swap" in form.dataset) {
        event.preventDefault();
        load(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      }
    });
  }
  upload(root);
  watch(root);
}

addEventListener("popstate", () => {
  if (location.pathname !== place) location.reload(); // not for the link that skips to the content
});
begin();
