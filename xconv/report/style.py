"""How the page looks: the reader's own fonts, light or dark as they have it, narrow screens, paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #202124; --soft: #5f6368; --line: #dadce0; --paper: #fff; --card: #f6f7f9;
  --accent: #0072b2; --warn: #8a3a00; --warn-card: #fff4ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a5abb3; --line: #3c4043; --paper: #17191c;
  --card: #22252a; --accent: #6fbdec; --warn: #ffb27a; --warn-card: #33251b; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.75rem; padding-top: 0.9rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 1.75rem 0 0.5rem; font-size: 1.05rem; }
p { margin: 0.6rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
h1, h2, h3, p, td, th, dd, li { overflow-wrap: anywhere; }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem;
  margin: 1.5rem 0; }
dl.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 0.8rem 1rem;
  border-radius: 0.5rem; background: var(--card); }
dl.figures dt { color: var(--soft); font-size: 0.9rem; }
dl.figures dd { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; white-space: nowrap; }
.note { margin: 1.25rem 0; padding: 0.75rem 1rem; border-left: 4px solid var(--warn); background: var(--warn-card); }
.note ul { margin: 0.3rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.95rem; }
caption { padding-bottom: 0.4rem; text-align: left; color: var(--soft); }
th, td { padding: 0.32rem 1.4rem 0.32rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.layers td, .layers th { overflow-wrap: normal; }
tfoot td, tfoot th { border-bottom: 0; font-weight: 600; }
table.facts th { min-width: 11rem; color: var(--soft); }
figure { margin: 1.25rem 0; }
figure .wide { padding: 0.5rem; border: 1px solid var(--line); border-radius: 0.5rem; background: #fff; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: 0.5rem; max-width: 46rem; color: var(--soft); font-size: 0.95rem; }
pre { margin: 0.75rem 0; padding: 0.8rem 1rem; border-radius: 0.5rem; background: var(--card); overflow-x: auto;
  font: 0.9rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { font: 0.95em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: 0.9rem; }
@media (max-width: 40rem) { body { padding: 1.25rem 0.9rem 3rem; } h1 { font-size: 1.6rem; }
  table.facts th { min-width: 7rem; }
  th, td { padding-right: 0.8rem; } table.layers { font-size: 0.8rem; } }
@media print { body { max-width: none; padding: 0; } figure, table { break-inside: avoid; } h2 { break-after: avoid; } }
""".strip()
