"""No two modules import each other, however long the way round, not even for types."""

import grimp


def test_there_are_no_import_circles() -> None:
    graph = grimp.build_graph("orpo", cache_dir=None)
    left = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    while True:  # what imports nothing that is left is in no circle
        done = [name for name, imported in left.items() if not imported & left.keys()]
        if not done:
            break
        for name in done:
            del left[name]
    assert sorted(left) == []
