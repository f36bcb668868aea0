// What the pages do beyond HTML: times in the reader's zone, copying, the link of the entry, the chat of Try it.
// Every page works without this file.

const language = document.documentElement.lang;
const byId = (id) => document.getElementById(id);

function localTimes(root) {
  const form = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) {
      time.title = time.dateTime;
      time.textContent = form.format(at);
    }
  }
}

function copyButtons() {
  for (const button of document.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      const said = button.textContent;
      button.textContent = "✓";
      setTimeout(() => { button.textContent = said; }, 1500);
    });
  }
}

// The secret part of a link stands behind the #, where no server sees it. It waits for a click: a preview of the link
// cannot use it up.
function takeTicket() {
  const field = byId("ticket");
  const ticket = location.hash.slice(1);
  if (field && ticket) {
    field.value = ticket;
    history.replaceState(null, "", location.pathname);
    field.form.querySelector("button").focus();
  }
}

function pausing() {
  const button = byId("pause");
  if (!button) return;
  const words = [button.textContent, button.dataset.paused];
  let isPaused = false;
  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    button.textContent = words[Number(isPaused)];
  });
  document.addEventListener("htmx:before:request", (event) => {
    if (isPaused || document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:after:request", (event) => {
    // The session has ended.
    if (event.detail?.ctx?.response?.status === 401) location.reload();
  });
  document.addEventListener("htmx:after:swap", () => localTimes(document));
}

function trial() {
  const form = byId("trial");
  if (!form) return;
  const turns = byId("turns");
  const question = byId("text");
  const stop = byId("stop");
  const send = byId("send");
  let running = null;

  const newTurn = (role, title) => {
    const turn = byId("turn").content.cloneNode(true).firstElementChild;
    turn.classList.add(role);
    turn.querySelector("h2").textContent = title;
    turn.querySelector("[name=role]").value = role;
    turns.append(turn);
    return turn;
  };
  const write = (turn, part, text) => {
    const place = turn.querySelector(part);
    place.append(text);
    place.hidden = false;
    return place;
  };
  const seconds = (value) => (value ?? 0).toFixed(1);

  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let left = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (left + value).split("\n");
      left = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  }

  const show = (turn, said) => {
    if (said.text) {
      write(turn, ".text", said.text);
      turn.querySelector("[name=said]").value += said.text;
    } else if (said.thought) {
      write(turn, ".thoughts", said.thought).closest("details").hidden = false;
    } else if (said.page) {
      const item = document.createElement("li");
      const isLink = /^https?:\/\//.test(said.page);
      const link = document.createElement(isLink ? "a" : "span");
      if (isLink) {
        link.href = said.page;
        link.rel = "noreferrer noopener";
        link.target = "_blank";
      }
      link.textContent = said.title || said.page;
      item.append(link);
      write(turn, ".pages", item);
    } else if (said.end) {
      const facts = form.dataset.facts.replace("{first}", seconds(said.first_s)).replace("{total}", seconds(said.total_s));
      write(turn, ".facts", [facts, said.end === "stop" ? "" : said.end, ...said.notices].filter(Boolean).join(" · "));
    } else if (said.error) {
      write(turn, ".failed", `${said.error} (${[said.status, said.code].filter(Boolean).join(" ")})`);
    }
    return Boolean(said.end || said.error);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running || !question.value.trim()) return;
    const data = new FormData(form);
    running = new AbortController();
    const asked = newTurn("user", byId("you").textContent);
    write(asked, ".text", question.value);
    asked.querySelector("[name=said]").value = question.value;
    const answer = newTurn("assistant", "Kimi");
    question.value = "";
    send.disabled = true;
    stop.hidden = false;
    turns.setAttribute("aria-busy", "true");
    let isComplete = false;
    try {
      const response = await fetch(form.dataset.stream, { method: "POST", body: data, signal: running.signal });
      if (!response.headers.get("content-type")?.startsWith("application/x-ndjson")) {
        throw new Error(String(response.status));
      }
      for await (const said of lines(response.body)) isComplete = show(answer, said) || isComplete;
      if (!isComplete) throw new Error("cut");
    } catch (error) {
      if (!isComplete) {
        write(answer, ".failed", error.name === "AbortError" ? form.dataset.stopped : form.dataset.lost);
      }
    }
    // What failed is no part of the conversation.
    if (answer.querySelector(".failed").textContent) {
      for (const turn of [asked, answer]) for (const field of turn.querySelectorAll("input")) field.remove();
    }
    running = null;
    send.disabled = false;
    stop.hidden = true;
    turns.setAttribute("aria-busy", "false");
    question.focus();
  });
  stop.addEventListener("click", () => running?.abort());
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) form.requestSubmit();
  });
}

localTimes(document);
copyButtons();
takeTicket();
pausing();
trial();
