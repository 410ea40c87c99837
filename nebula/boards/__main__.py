"""Write the JSON of all boards into a folder: `python -m nebula.boards FOLDER`."""

import sys
from pathlib import Path

from nebula.boards.files import files

if __name__ == "__main__":
    for name, text in files().items():
        Path(sys.argv[1], name).write_text(text)
