"""What makes `kfp run submit SPEC` ours: installed beside the package, not in it (`force-include` in pyproject.toml).

Python runs the line of `sentinel-kfp.pth` at every start of the environment, so it does next to nothing.
"""
