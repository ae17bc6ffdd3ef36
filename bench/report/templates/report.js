"use strict";
(() => {
  const natural = new Intl.Collator("en", { numeric: true });

  // The value to sort and filter by: a cell's raw number, or its text; null if nothing was measured.
  const valueOf = (cell) => {
    if ("v" in cell.dataset) return Number(cell.dataset.v);
    return cell.textContent === "" || cell.classList.contains("n") ? null : cell.textContent;
  };

  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : natural.compare(a, b));

  // The first click sorts in ascending order, the next one in descending order; unmeasured cells always come last.
  const sortBy = (table, header) => {
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[header.cellIndex]), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * order(a, b)));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  // How a cell's value compares with those wanted: several, with commas between them, can stand after = and !=.
  const comparisons = {
    "=": (a, wanted) => wanted.includes(a), "!=": (a, wanted) => !wanted.includes(a),
    "<": (a, [b]) => a < b, "<=": (a, [b]) => a <= b, ">": (a, [b]) => a > b, ">=": (a, [b]) => a >= b,
    "~": (a, [b]) => String(a).includes(b),
  };

  // A plain number, or a percentage if the column holds fractions; NaN for anything else.
  const numberOf = (text, isFraction) => {
    const found = /^([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(%?)$/i.exec(text);
    if (found === null || (found[2] && !isFraction)) return NaN;
    // Read at once: dividing by 100 would round again, and 97.85 % would not be the accuracy 0.9785.
    return Number(found[2] ? `${found[1]}e-2` : found[1]);
  };

  // A condition is a column's key, a comparison and a value, as in `show --filter`; any other word is searched for in
  // every cell. A quantity and its median have the same values. A message is thrown if a condition is wrong.
  const conditionOf = (word, headers) => {
    const found = /^(\w+)(!=|<=|>=|=|<|>|~)(.*)$/.exec(word);
    if (found === null) {
      return (row) => [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(word.toLowerCase()));
    }
    const [, key, sign, text] = found;
    const keys = headers.map((header) => header.dataset.key);
    const place = keys.findIndex((each) => each.replace(/_median$/, "") === key.replace(/_median$/, ""));
    if (place < 0) throw `this table has no column ${key}: use one of ${keys.join(", ")}`;
    const isNumeric = headers[place].classList.contains("n");
    const isFraction = headers[place].dataset.unit === "fraction";
    const parts = ["=", "!="].includes(sign) ? text.split(",") : [text];
    const numbers = parts.map((part) => numberOf(part, isFraction));
    if (text === "") throw `${key}${sign} needs a value`;
    if (isNumeric && (sign === "~" || numbers.some(Number.isNaN))) throw `${key} needs = != < <= > >= and a plain number`;
    const unclear = isFraction ? numbers.find((number, i) => Math.abs(number) >= 2 && !parts[i].endsWith("%")) : undefined;
    if (unclear !== undefined) throw `${key} is a fraction: write ${unclear / 100} or ${unclear}%`;
    if (!isNumeric && !["=", "!=", "~"].includes(sign)) throw `${key} holds text: use =, != or ~`;
    return (row) => {
      const value = valueOf(row.cells[place]);
      return value === null ? sign === "!=" : comparisons[sign](value, isNumeric ? numbers : [...parts, text]);
    };
  };

  const filterBy = (table, text) => {
    const headers = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows];
    const status = document.querySelector(`[data-count="${table.id}"]`);
    const words = text.replace(/\s*(!=|<=|>=|=|<|>|~)\s*/g, "$1").split(/\s+/).filter(Boolean);
    let conditions = [];
    let problem = "";
    try {
      conditions = words.map((word) => conditionOf(word, headers));
    } catch (reason) {
      problem = `: ${reason}`;
    }
    for (const row of rows) row.hidden = !conditions.every((holds) => holds(row));
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows${problem}`;
  };

  // A chart that is wider than the page can be scrolled by the keyboard; the others are no stops on its way.
  const stops = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const chart of document.querySelectorAll(".chart")) stops.observe(chart);
  for (const table of document.querySelectorAll("table.configurations")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(table, header));
      header.append(button);
    }
  }
  for (const input of document.querySelectorAll("input[data-table]")) {
    const table = document.getElementById(input.dataset.table);
    input.closest(".filter").hidden = false;
    input.addEventListener("input", () => filterBy(table, input.value));
    if (input.value) filterBy(table, input.value);
  }
})();
