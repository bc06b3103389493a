"""The known slips that a check of a pair names, in words."""

# where a sum runs, and which two paths there are, as long as nothing more is known of a pair
OVER = "all rows: all tokens of all sequences in the batch"
PATHS = "paths: one goes through W, one through the adapter"

# {name}: the output; {s}: " = 16" where the scale is known; {over}, {paths}: as above
SLIPS = {
    "swapped": "the outputs are right and in another order: {name} stands in the place of another",
    "scale missing": "the scale s = α/r{s} was left out of {name}",
    "scale twice": "the scale s = α/r{s} is in {name} twice",
    "sign": "{name}, or a part of it, has the wrong sign",
    "transposed": "{name} is transposed, or was made with a transposed matrix",
    "no sum": "{name} is not the sum over {over}",
    "path missing": "{name} has only one of its two {paths}",
    "dtype": "{name} is right but for rounding, as if float16 or integers had held it",
}
