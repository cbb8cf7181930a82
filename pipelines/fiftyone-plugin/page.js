// What only the page can do. It keeps the groups of its sidebar for as long as it is open: FiftyOne's server hands it those of the
// dataset's settings when it is loaded, and a field that comes later is put into one of the page's own groups, whatever the settings say.
(() => {
  const { Operator, OperatorConfig, registerOperator } = window.__foo__;
  const { sidebarGroupsDefinition } = window.__fos__;

  // What a page shows before the groups of the settings.
  const FIRST = ["tags", "metadata"];

  // The page's groups with fields in those that the dataset's settings have for them.
  function regrouped(shown, wanted) {
    const moved = new Set(wanted.flatMap(({ paths }) => paths));
    const groups = shown.map((group) => ({ ...group, paths: group.paths.filter((path) => !moved.has(path)) }));
    for (const { name, paths } of wanted) {
      const group = groups.find((one) => one.name === name);
      if (group) {
        group.paths.push(...paths);
      } else {
        const place = groups.findLastIndex((one) => FIRST.includes(one.name)) + 1;
        groups.splice(place, 0, { name, paths: [...paths], expanded: true });
      }
    }
    return groups;
  }

  class GroupFields extends Operator {
    get config() {
      return new OperatorConfig({ name: "group_fields", label: "camflow: group fields", unlisted: true });
    }

    async execute({ params, state }) {
      // Of the page alone: the dataset's settings have it already, and whoever moves groups by hand makes them theirs.
      state.set(sidebarGroupsDefinition(false), (shown) => regrouped(shown, params.groups));
    }
  }

  registerOperator(GroupFields, "@camflow/camflow");
})();
