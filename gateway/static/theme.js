/** The colour theme: as the system has it, until the reader chooses; the choice is kept in this browser. */

const KEY = "theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const WORDS = { system: "as the system", light: "light", dark: "dark" };

export function startTheme(button) {
  const stored = read();
  apply(stored in NEXT ? stored : "system", button);
  button.addEventListener("click", () => {
    const theme = NEXT[document.documentElement.dataset.theme ?? "system"];
    apply(theme, button);
    write(theme);
  });
}

function apply(theme, button) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.setAttribute("aria-label", `Colour theme: ${WORDS[theme]}`);
  button.title = `Theme: ${WORDS[theme]}`;
}

function read() {
  try {
    return localStorage.getItem(KEY) ?? "system";
  } catch {
    return "system"; // storage may be blocked: the choice then lasts as long as the page
  }
}

function write(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    return;
  }
}
