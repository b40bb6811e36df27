"""How a generator is judged. Reads TOD cubes only; knows no generator.

Every number comes with its standard error and is applied in the same way to two independent Monte
Carlo cubes ("real-vs-real"): what no generator can beat, and what limited data cannot resolve.
"""
