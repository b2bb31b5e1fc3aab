"""Adds our `submit` to kfp's command line when, and only when, `kfp.cli.run` is imported. Never raises.

Runs at every start of Python in this environment: it imports nothing but `sys`. Without it (`python -S`, an installer
that drops .pth files) everything works but `kfp run submit SPEC`; `sentinel submit SPEC` is the same.
"""

import sys

TARGET = "kfp.cli.run"


class Finder:
    """Lets Python find the module as ever, and registers our command once it has run."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module's own spec, with its loader's `exec_module` extended."""
        if name != TARGET:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: object) -> None:
                execute(module)  # type: ignore[arg-type]
                register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register(module: object) -> None:
    """Hand kfp's group of commands to our package; whatever goes wrong, kfp works as before."""
    try:
        from sentinel.pipelines.command import register

        register(module.run)  # type: ignore[attr-defined]
    except Exception as error:
        print(f"sentinel: `kfp run submit SPEC` is not there ({error}); use `sentinel submit SPEC`", file=sys.stderr)


sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
