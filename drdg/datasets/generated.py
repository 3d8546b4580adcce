"""Station 1, archives: by what generated towns are known, without what draws them, which takes a second to load."""

# Goes into the digest: to be raised whenever the same configuration gives other pixels.
RECIPE = 3
MARKER = "synthetic.json"
SOURCE_FOLDER, TARGET_FOLDER = "Potsdam", "Vaihingen"
