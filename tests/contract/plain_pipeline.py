"""A pipeline that is not ours; run, it writes `plain.yaml`."""

from kfp import compiler, dsl


@dsl.component(base_image="python:3.12")  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    return 2 * number


@dsl.pipeline(name="plain")  # type: ignore[untyped-decorator]
def plain(number: int = 1) -> int:
    return double(number=number).output


if __name__ == "__main__":
    compiler.Compiler().compile(plain, "plain.yaml")
