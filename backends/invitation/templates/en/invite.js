"use strict";
(function () {
  const form = document.getElementById("form");
  const message = document.getElementById("message");
  const button = form.querySelector("button");
  const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
  history.replaceState(null, "", location.pathname); // the token leaves the address bar and the history

  function say(text, failed) {
    message.textContent = text;
    message.className = failed ? "error" : "";
  }

  if (!/^inv_[A-Za-z0-9_-]{43}$/.test(token)) {
    say("This link is not complete. Open it again from your mail.", true);
    return;
  }
  say("Choose a password to join.", false);
  form.hidden = false;

  form.addEventListener("submit", async function (event) {
    event.preventDefault();
    button.disabled = true;
    try {
      const response = await fetch("/api/invitations/accept/", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: token, password: form.password.value, name: form.elements.name.value.trim() }),
        credentials: "omit",
        referrerPolicy: "no-referrer",
      });
      const answer = await response.json();
      if (response.ok) {
        form.hidden = true;
        say("Welcome to " + answer.user.tenant.name + ". You can log in as " + answer.user.email + " now.", false);
        return;
      }
      const details = (answer.errors || []).map(function (e) { return e.detail; });
      say(details.join(" ") || answer.detail || "This did not work. Try again later.", true);
      form.hidden = response.status === 404 || response.status === 409 || response.status === 410;
    } catch (error) {
      say("The service could not be reached. Try again.", true);
    } finally {
      button.disabled = false;
    }
  });
})();
