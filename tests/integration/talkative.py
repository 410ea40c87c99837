"""The command line, whose gateway tells silent clients sooner that their streams are under way."""

from nebula.cli.main import main
from nebula.http import history, watching

if __name__ == "__main__":
    watching.HEAD_AFTER = watching.COMMENT_AFTER = history.KEEP_ALIVE = 1.0
    watching.LOOK = 0.25
    main()
