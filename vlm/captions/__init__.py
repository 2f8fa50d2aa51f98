"""A folder of pictures, captioned: resumable at any instant, in the Hugging Face imagefolder convention.

    scan.py      which pictures there are, without reading any
    journal.py   the two files, appended to line by line; repair, index, compaction, and the lock on the folder
    records.py   what the files say about the pictures, and what a run adds
    work.py      the run: several pictures under way at once, told through the engine
    service.py   a running service in the engine's place
    stop.py      Ctrl-C
    progress.py  the bar, the lines and the table
    gallery/     pages to look at

Nothing here is imported with `vlm`; the command is `vlm.cli.caption`.
"""
