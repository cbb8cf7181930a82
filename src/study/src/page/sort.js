// A click on a column's head sorts its table by it, another one turns the order around.
for (const head of document.querySelectorAll("th.sortable")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const ascending = head.dataset.order !== "ascending";
    for (const other of head.parentNode.cells) delete other.dataset.order;
    head.dataset.order = ascending ? "ascending" : "descending";
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
    const numeric = (a, b) => Number(key(a)) - Number(key(b));
    const rows = [...body.rows].sort(head.classList.contains("number") ? numeric : compare);
    body.append(...(ascending ? rows : rows.reverse()));
  });
}
