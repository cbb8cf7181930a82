"""What is in a view: the ids of its samples in its order, and the stages that change what it shows of them.

Writes a BSON document and the ids, one a line. Started by saved_view.rs, with the database's address in the environment.
"""

import json
import os
import sys

# Nothing is imported from the current folder, which may be anybody's.
sys.path[:] = [path for path in sys.path if path]

import bson
import fiftyone as fo
import fiftyone.core.stages as fos

# What a stage of raw MongoDB may do to the samples: choose and order them, or change each by itself.
CHOOSING = {"$match", "$sort", "$limit", "$skip", "$sample"}
CHANGING = {"$set", "$addFields", "$unset", "$project", "$replaceRoot", "$replaceWith", "$redact"}


class Refused(Exception):
    """The stage whose labels cannot be told, why, and what to do."""


class Shown:
    """What a view's stages make of each sample, as far as they do not only choose and order samples."""

    def __init__(self, fields):
        # What is read of a sample through the view.
        self.read = {"filepath", *fields}
        self.fields = fields
        self.stages = []
        # Names of those that change what is read.
        self.changing = []
        # By field the stage that hides it.
        self.hidden_by = {}
        self.at_groups = ([], [])

    def add(self, stage, view):
        name = type(stage).__name__
        if isinstance(stage, fos.Concat):
            other = Shown(self.fields)
            other.add_all(stage._view)
            if self.changing or other.changing:
                refuse(
                    name, "puts samples together whose labels are changed in different ways", "save each part by itself"
                )
        elif isinstance(stage, fos.GroupBy) and stage.outputs_dynamic_groups:
            self.at_groups = (list(self.stages), list(self.changing))
        elif isinstance(stage, fos.Flatten):
            # FiftyOne takes the samples of a group as they were before they were grouped.
            self.stages, self.changing = map(list, self.at_groups)
            of_group = stage.stages or []
            for inner in of_group if isinstance(of_group, (list, tuple)) else [of_group]:
                self.add(inner, view)
        elif stage.flattens_groups:
            pipeline = stage.to_mongo(view)
            if any("$lookup" in step for step in pipeline):
                # FiftyOne takes the samples of a group as they are stored, without the fields that are left out.
                self.stages = [step for step in pipeline if "$project" in step][1:]
                self.changing = [name for name in self.changing if name in {"SelectFields", "ExcludeFields"}]
        elif isinstance(stage, fos.Mongo):
            self._add_pipeline(name, stage.pipeline)
        elif self._changes(stage, view):
            if view.media_type == "group" and stage._needs_group_slices(view):
                refuse(name, "reads other slices of a group", "leave the other slices out")
            self.stages.extend(stage.to_mongo(view))

    def add_all(self, view):
        before = view._base_view
        for stage in view._stages:
            self.add(stage, before)
            before = before._add_view_stage(stage, validate=False)

    def _changes(self, stage, view):
        edited = {*(stage.get_edited_fields(view) or ()), *(stage.get_filtered_fields(view) or ())}
        selected, excluded = stage.get_selected_fields(view), stage.get_excluded_fields(view) or ()
        is_changed = self._reads({*edited, *excluded})
        for field in self.fields:
            is_whole = selected is None or any(is_within(field, path) for path in selected)
            is_changed |= not is_whole
            is_hidden = not is_whole and not any(is_within(path, field) for path in selected)
            if is_hidden or any(is_within(field, path) for path in excluded):
                self.hidden_by[field] = type(stage).__name__
        if is_changed:
            self.changing.append(type(stage).__name__)
        return bool(edited or excluded or selected is not None)

    def _reads(self, paths):
        return any(is_within(path, read) or is_within(read, path) for path in paths for read in self.read)

    def _add_pipeline(self, name, pipeline):
        for step in pipeline:
            for operator, changes in step.items():
                if operator in CHOOSING:
                    continue
                if operator not in CHANGING:
                    if self.fields:
                        refuse(name, f"has a `{operator}`, and what it does to labels cannot be told", "leave it out")
                    continue
                self.stages.append({operator: changes})
                if operator in {"$set", "$addFields"} or operator == "$project" and not any(changes.values()):
                    changed = self._reads(changes)
                elif operator == "$unset":
                    changed = self._reads([changes] if isinstance(changes, str) else changes)
                else:
                    changed = True
                if changed:
                    self.changing.append(name)


def refuse(stage, why, todo):
    raise Refused(stage, why, todo)


def is_within(path, outer):
    return f"{path}.".startswith(f"{outer}.")


def is_random(value):
    if isinstance(value, dict):
        return "$rand" in value or any(map(is_random, value.values()))
    return isinstance(value, (list, tuple)) and any(map(is_random, value))


def resolve(view, fields, leave_out=False):
    """The answer, and the view whose samples count. Fields that the view hides are left out, or else it is refused."""
    if view._is_generated:
        return {"generated": type(view).__name__}, None
    whole, notes = view, []
    shown = Shown(fields)
    shown.add_all(view)
    if view._is_dynamic_groups:
        num_groups = len(view)
        before, view = view, view.flatten()
        _take_all(shown, before, view, "group_by")
        notes.append(f"groups samples: all samples of its {num_groups} groups are taken")
    if view.media_type == "group":
        before, view = view, view.select_group_slices(media_type="image")
        _take_all(shown, before, view, 'select_group_slices(media_type="image")')
    if shown.hidden_by and leave_out:
        answer, view = resolve(whole, [field for field in fields if field not in shown.hidden_by], leave_out)
        return {**answer, "hidden": list(shown.hidden_by)}, view
    for field, stage in shown.hidden_by.items():
        refuse(stage, f"hides field `{field}`", "keep the field in the view, or name another target")
    answer = {"notes": notes}
    if shown.changing:
        if is_random(shown.stages):
            refuse(shown.changing[0], "changes labels at random, in another way each time", "store the changed labels")
        answer |= {"stages": shown.stages, "changing": list(dict.fromkeys(shown.changing))}
    return answer, view


def _take_all(shown, before, after, grouping):
    """Goes on to all samples of groups, of which a view of groups changes one."""
    changing = list(shown.changing)
    shown.add(after._stages[-1], before)
    if len(shown.changing) < len(changing):
        why = "comes where samples are in groups, of which FiftyOne changes the first one only"
        refuse(changing[-1], why, f"in the view, put it {'before' if grouping == 'group_by' else 'after'} `{grouping}`")


def load(dataset, name=None, stages=None):
    """A saved view, or one of stages in a file."""
    dataset = fo.load_dataset(dataset)
    if name is not None:
        return dataset.load_saved_view(name)
    with open(stages, "rb") as file:
        found = json.load(file)
    # Of anything else FiftyOne makes a view of the whole dataset.
    if not isinstance(found, list):
        raise ValueError("the file holds no list of stages")
    return fo.DatasetView._build(dataset, found)


def main(wanted, path):
    # FiftyOne's own words go to standard output, among them notices of the database.
    os.dup2(2, 1)
    wanted = json.loads(wanted)
    view = load(**wanted["view"])
    try:
        answer, view = resolve(view, wanted["fields"], wanted["leave_out"])
    except Refused as refused:
        stage, why, todo = refused.args
        answer, view = {"refused": stage, "why": why, "todo": todo}, None
    with open(path, "wb") as file:
        file.write(bson.encode(answer))
        if view is not None:
            file.write("\n".join(view.values("id")).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
