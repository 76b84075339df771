"""Which of several teachers a run buys its traces from, once that is decided."""

from tenner.core.records import TeacherProbe
from tenner.core.run_folder import RunFolder
from tenner.core.sections import TraceSection

FILE = "teachers"


def chosen(folder: RunFolder, section: TraceSection) -> TraceSection:
    """The section of the teacher that was chosen; `section` itself where it names only one, or none is chosen yet."""
    if section.candidates is None:
        return section
    places = [row.place for row in folder.stream(FILE, TeacherProbe) if row.is_chosen]
    return section.teachers[places[0]] if places else section


def possible(folder: RunFolder, section: TraceSection) -> list[TraceSection]:
    """The sections of the teachers that may still be asked: the chosen one, or all."""
    found = chosen(folder, section)
    return [found] if found.candidates is None else found.teachers
