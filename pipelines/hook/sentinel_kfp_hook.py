"""Adds our `submit` to kfp's command line when, and only when, that is imported. Never raises.

Runs at every start of Python in this environment: it imports nothing but `sys`. Without it (`python -S`, an installer
that drops .pth files) everything works but `kfp run submit SPEC`; `sentinel submit SPEC` is the same.
"""

import sys

EXTENSIONS = {"kfp.cli.run": "register", "kfp.cli.cli": "resolve_first"}
"""Module of kfp -> what `sentinel.pipelines.command` does to it."""


class Finder:
    """Lets Python find a module as ever, and extends kfp's once they have run."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module's own spec, with its loader's `exec_module` extended."""
        if name not in EXTENSIONS:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_extend(module: object) -> None:
                execute(module)  # type: ignore[arg-type]
                extend(name, module)

            spec.loader.exec_module = execute_and_extend  # type: ignore[method-assign]
        return spec


def extend(name: str, module: object) -> None:
    """Hand a module of kfp to our package; whatever goes wrong, kfp works as before."""
    try:
        from sentinel.pipelines import command

        getattr(command, EXTENSIONS[name])(module)
    except Exception as error:
        print(f"sentinel: `kfp run submit SPEC` is not there ({error}); use `sentinel submit SPEC`", file=sys.stderr)


sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
