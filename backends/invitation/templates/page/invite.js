"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);
  const form = byId("form"), password = byId("password"), name = byId("name");
  const submit = form.querySelector("[type=submit]"), announce = byId("status");
  const language = document.documentElement.lang, texts = byId("texts").content;

  // The token is in the fragment, which no server sees. It leaves the address
  // bar and the history before anything else happens, and lives here alone.
  let token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
  history.replaceState(null, "", location.pathname);
  addEventListener("hashchange", () => location.reload()); // another link, opened in this tab

  let least = 0; // characters of a new password; 0 if the account has one already
  let busy = false;

  // show makes one state of the page the only one, and tells it to readers.
  const show = (state) => {
    all("[data-state]").forEach((section) => { section.hidden = section.dataset.state !== state; });
    const heading = document.querySelector("[data-state]:not([hidden]) h1");
    document.title = heading.textContent;
    announce.textContent = "";
    heading.focus();
  };
  const fill = (slot, text) => all(`[data-slot=${slot}]`).forEach((element) => { element.textContent = text; });
  const part = (which, shown) => all(`[data-part=${which}]`).forEach((element) => { element.hidden = !shown; });

  // read returns a text of the page's language with values in its slots, or
  // undefined if there is none.
  const read = (selector, values = {}) => {
    const text = texts.querySelector(selector);
    text?.querySelectorAll("[data-slot]").forEach((slot) => { slot.textContent = values[slot.dataset.slot]; });
    return text?.textContent;
  };
  const say = (key, values) => read(`[data-text=${key}]`, values);
  // why returns what a code of the server means: its own words, in English or
  // if the page has none for it.
  const why = (code, detail) => read(`[data-code~="${CSS.escape(code || "")}"]`) || detail || "";

  const units = (count, unit) => new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" }).format(count);
  const waiting = (seconds) => (seconds > 90 ? units(Math.ceil(seconds / 60), "minute") : units(seconds, "second"));

  // post returns the status, the body and the seconds to wait. It fails if no
  // answer can be had: then the status is 0.
  const post = async (path, body) => {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), 40000);
    try {
      const response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        signal: abort.signal,
      });
      return { status: response.status, body: await response.json(), wait: Number(response.headers.get("Retry-After")) || 0 };
    } catch {
      return { status: 0, body: {}, wait: 0 };
    } finally {
      clearTimeout(timer);
    }
  };

  // ended shows how the invitation ended, if the answer says that it did.
  const ended = ({ status, body }) => {
    if (![404, 409, 410].includes(status) || !body.code) return false;
    fill("detail", why(body.code, body.detail));
    show(document.querySelector(`[data-state="${CSS.escape(body.code)}"]`) ? body.code : "refused");
    token = "";
    form.reset();
    return true;
  };

  const look = async () => {
    show("looking");
    const answer = await post("/api/invitations/look/", { token });
    if (ended(answer)) return;
    if (answer.status === 429) {
      fill("wait", waiting(answer.wait || 60));
      show("too-many");
      return;
    }
    if (answer.status !== 200) {
      show("unreachable");
      return;
    }
    const offer = answer.body;
    fill("tenant", offer.tenant.name);
    fill("role", offer.role.name);
    fill("inviter", offer.inviter.name);
    part("inviter", offer.inviter.name !== "");
    const expires = document.querySelector("[data-slot=expires]");
    expires.dateTime = offer.expires_at;
    expires.textContent = new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, {
      day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
    }).format(new Date(offer.expires_at));
    byId("email").value = offer.email;
    name.value = offer.name;
    part("new", !offer.account_exists);
    part("existing", offer.account_exists);
    password.setAttribute("aria-describedby", "password-error " + (offer.account_exists ? "existing" : "rules"));
    password.autocomplete = offer.account_exists ? "current-password" : "new-password";
    least = offer.account_exists ? 0 : offer.password.min_length;
    fill("least", String(offer.password.min_length));
    measure();
    show("open");
  };

  // The server counts code points of the NFKC form too, and is the judge.
  const length = () => [...password.value.normalize("NFKC")].length;
  const measure = () => {
    const met = length() >= least, row = byId("length");
    byId("count").textContent = password.value === "" ? "" : ` (${length()})`;
    if (met !== row.classList.contains("met")) {
      row.classList.toggle("met", met);
      if (least > 0) announce.textContent = say(met ? "long-enough" : "too-short");
    }
  };

  const reveal = (shown) => {
    password.type = shown ? "text" : "password";
    byId("show").textContent = say(shown ? "hide" : "show");
    byId("show").setAttribute("aria-label", say(shown ? "hide-password" : "show-password"));
  };

  // complain puts a text beside its field, or below the form, and returns the
  // field.
  const complain = (field, text) => {
    byId(field ? field.id + "-error" : "problem").textContent = text;
    if (field) field.setAttribute("aria-invalid", "true");
    return field || submit;
  };
  const clear = () => {
    all(".error").forEach((element) => { element.textContent = ""; });
    [name, password].forEach((field) => field.removeAttribute("aria-invalid"));
  };

  // refused shows why an accept was refused and moves to the first field.
  const refused = ({ status, body, wait }) => {
    const errors = status === 422 ? body.errors || [] : [];
    const fields = errors.map((e) => complain({ "/name": name, "/password": password }[e.pointer], why(`${e.pointer}:${e.code}`, e.detail)));
    if (fields.length === 0) {
      let text = why(body.code, body.detail) || say("failed");
      if (status === 0) text = say("not-reached");
      if (status === 429) text = say("wait", { wait: waiting(wait || 60) });
      fields.push(complain(null, text));
    }
    const first = fields.includes(name) ? name : fields[0];
    announce.textContent = Array.from(all(".error"), (element) => element.textContent).filter(Boolean).join(" ");
    first.focus();
    if (first === password) password.select();
  };

  const accept = async () => {
    const answer = await post("/api/invitations/accept/", { token, password: password.value, name: least > 0 ? name.value.trim() : "" });
    if (answer.status === 201) {
      fill("email", answer.body.user.email);
      show("accepted");
      token = "";
      form.reset();
      return;
    }
    if (!ended(answer)) refused(answer);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    clear();
    if (password.value === "" || length() < least) {
      complain(password, least > 0 ? say("missing-characters", { least, more: least - length() }) : say("missing-password")).focus();
      announce.textContent = byId("password-error").textContent;
      return;
    }
    busy = true;
    reveal(false); // password managers look for a field of this type
    form.setAttribute("aria-busy", "true");
    announce.textContent = say("joining");
    await accept();
    form.removeAttribute("aria-busy");
    busy = false;
  });

  password.addEventListener("input", () => { clear(); measure(); });
  byId("show").addEventListener("click", () => reveal(password.type === "password"));
  all("[data-retry]").forEach((button) => button.addEventListener("click", look));

  if (/^inv_[A-Za-z0-9_-]{43}$/.test(token)) look();
  else show("no-token");
})();
