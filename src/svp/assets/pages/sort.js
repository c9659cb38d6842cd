// a click on a column's head sorts by it: by the first number of a cell, where there is one
for (const table of document.querySelectorAll("table:has(thead button)")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const first = column === 0 ? "ascending" : "descending";
    const second = column === 0 ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const number = row => parseFloat(row.cells[column].textContent.replaceAll(",", ""));
    const text = row => row.cells[column].textContent;
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => {
      const x = column === 0 ? NaN : number(a), y = column === 0 ? NaN : number(b);
      if (isNaN(x) && isNaN(y)) return sign * text(a).localeCompare(text(b));
      if (isNaN(x) || isNaN(y)) return isNaN(x) ? 1 : -1;  // what is missing stays at the end
      return sign * (x - y);
    }).forEach(row => body.append(row));
  }));
}
