"""JSON with something in it that does not belong there."""


def mangled(value, draw):
    """The same JSON with one thing in it replaced by something that does not belong there."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        name = draw.choice(list(value))
        return {**value, name: mangled(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        return [mangled(value[0], draw), *value[1:]]
    return draw.choice([None, "", "text", 0, -1, 1.5, True, [], [1], {}, {"a": 1}, [{"text": 3}], "\ud800", 10**30])
