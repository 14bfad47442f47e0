// What scrolls can be reached with the keyboard, and an anchor without a text is no link for a screen reader.
new MutationObserver(() => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) box.tabIndex = 0;
  for (const anchor of document.querySelectorAll('a[id*="__codelineno"]')) {
    anchor.tabIndex = -1;
    anchor.setAttribute("aria-hidden", "true");
  }
}).observe(document.documentElement, { childList: true, subtree: true });
