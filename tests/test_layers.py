"""The import graph: arrows point down, algorithms stay apart, the root loads light."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FLOORS = (
    ("types", "ranges", "masking", "logprobs", "trees", "gumbel", "sharding"),
    (
        *("kl", "rewards", "advantages", "losses", "regularizers", "labeling"),
        *("preference_losses", "reference_free", "unpaired_losses"),
        *("surrogates", "aggregation", "ensembles", "importance_sampling"),
        *("ema", "elastic_reset", "averaging", "sparsify", "merging"),
        *("heterogeneous", "ratios"),
        *("filters", "stopping", "models", "sampling", "continuous", "optim"),
        "training",
    ),
    ("algorithms", "runtime"),
    (
        *("data", "huggingface", "evaluation", "benchmarks", "microworld"),
        "feedback",
    ),
    ("reporting",),
    ("studies",),
    ("tasks",),
    ("cli",),
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
EXPERIMENTS = len(FLOORS)
IMPURE_ROOMS = {"runtime"}  # on a pure floor, but devices, hosts, disks and clocks
PURE = FLOOR["algorithms"]  # up to here no files, clocks or tokenizers
IMPURE = {
    "datasets",
    "io",
    "json",
    "orbax",
    "os",
    "pathlib",
    "shutil",
    "subprocess",
    "tempfile",
    "time",
    "tokenizers",
    "transformers",
}
LONGEST, LONGEST_FUNCTION = 350, 50  # lines of a file, of a function


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for folder in ("rlhf_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def room(module):
    """The folder or root file of the package that a module is in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rlhf_jax" and len(parts) > 1 else parts[0]


def floor(module):
    """The level of a module; the package itself holds nothing and is on the ground."""
    if module == "rlhf_jax":
        return 0
    if module.startswith("experiments"):
        return EXPERIMENTS
    return FLOOR[room(module)]


def imports(module, nodes=None):
    """Every module that a module imports, anywhere in it unless `nodes` are given."""
    path = MODULES[module]
    nodes = ast.walk(ast.parse(path.read_text())) if nodes is None else nodes
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
    return found


def inside(names):
    return {name for name in names if name.split(".")[0] in ("rlhf_jax", "experiments")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    upward = {
        name
        for name in inside(imports(module)) - {"rlhf_jax"}
        if floor(name) > floor(module)
    }
    assert not upward, f"{module} (floor {floor(module)}) imports upward: {upward}"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_imported_exists(module):
    missing = inside(imports(module)) - set(MODULES)
    assert not missing, f"{module} imports {missing}, of which there is no file"


def test_algorithms_do_not_import_each_other():
    prefix = "rlhf_jax.algorithms."
    for module in MODULES:
        if module.startswith(prefix):
            own = module.removeprefix(prefix).split(".")[0]
            others = {
                name
                for name in imports(module)
                if name.startswith(prefix)
                and name.removeprefix(prefix).split(".")[0] != own
            }
            assert not others, f"{module} imports another algorithm: {others}"


PURE_MODULES = [
    module
    for module in MODULES
    if floor(module) <= PURE and room(module) not in IMPURE_ROOMS
]


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_floors_touch_no_files_clocks_or_tokenizers(module):
    impure = {name for name in imports(module) if name.split(".")[0] in IMPURE}
    assert not impure, f"{module} is on a pure floor and imports {impure}"


def test_no_import_goes_in_a_circle():
    """Of module-level imports; a function may import what would close a circle."""
    graph = {
        module: inside(imports(module, ast.parse(path.read_text()).body)) - {module}
        for module, path in MODULES.items()
    }
    done = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                # A package's __init__ gathers its own parts, which may name it.
                if not module.startswith(f"{name}."):
                    visit(name, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_there_are_at_most_nine_floors_and_every_room_is_on_one():
    assert len(FLOORS) + 1 <= 9
    rooms = {room(module) for module in MODULES} - {"rlhf_jax", "experiments"}
    assert rooms <= set(FLOOR)


def test_evaluation_imports_no_algorithm():
    for module in MODULES:
        if room(module) == "evaluation":
            upward = {n for n in imports(module) if n.startswith("rlhf_jax.algorithms")}
            assert not upward, f"{module} imports {upward}"


def test_an_experiment_is_imported_by_experiments_alone():
    for module in MODULES:
        if not module.startswith("experiments"):
            found = {n for n in imports(module) if n.startswith("experiments")}
            assert not found, f"{module} imports {found}"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_are_short(module):
    text = MODULES[module].read_text()
    lines = len(text.splitlines())
    assert lines <= LONGEST, f"{module}: {lines} lines; two ideas want two files"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{module}.{node.name}: {length} lines"


def _is_record(node):
    """Whether a class is a dataclass, which may take over the fields of another."""
    return any("dataclass" in ast.unparse(x) for x in node.decorator_list)


def test_no_class_inherits_from_a_class_of_ours():
    """Behaviour is handed over as functions; records and exceptions apart."""
    classes = {
        node.name: (module, node)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    for name, (module, node) in classes.items():
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        ours = {base for base in bases & set(classes) if base != name}
        if not ours or _is_record(node) or bases & {"NamedTuple", "Exception"}:
            continue
        assert not ours, f"{module}.{name} inherits from {ours}"


def loaded_after(statement):
    """The top-level packages that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"jax", "flax", "transformers", "orbax", "datasets", "torch", "matplotlib"}
    assert not loaded_after("import rlhf_jax") & heavy


FLAX = ("models",)  # networks are flax modules


def test_the_arithmetic_and_the_concepts_load_without_tokenizers_or_files():
    names = ", ".join(
        name
        for level in FLOORS[:2]
        for name in level
        if f"rlhf_jax.{name}" in MODULES and name not in FLAX
    )
    heavy = {"transformers", "orbax", "datasets", "torch", "matplotlib", "flax"}
    assert not loaded_after(f"from rlhf_jax import {names}") & heavy


def test_no_import_starts_jax():
    """Devices are counted, and cores made devices, after everything is imported."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    code = (
        "import contextlib, importlib, jax\n"
        f"for name in {names!r}:\n"
        "    with contextlib.suppress(ImportError):\n"  # what needs an extra
        "        importlib.import_module(name)\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"  # an error once jax has started
        "assert len(jax.devices()) == 3\n"
    )
    run = {"cwd": ROOT, "capture_output": True, "text": True}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, **run)
    assert done.returncode == 0, done.stderr[-1000:]
