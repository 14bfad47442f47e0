// Asks for the token once; the server answers with a session.
const form = document.getElementById("login");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const error = document.getElementById("error");
  const answer = await fetch("login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: document.getElementById("token").value }),
  });
  if (answer.ok) {
    location.reload();
  } else {
    error.textContent = (await answer.json()).error;
  }
});
