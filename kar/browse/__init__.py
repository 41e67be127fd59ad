"""`kar browse`: a small local web page over releases and nights. It reads; it writes nothing, asks nothing and changes nothing.

    tables.py      one subject's rows of a night's Parquet files, by DuckDB: only the row groups that hold them
    search.py      users and items by id or title
    subject.py     what one night knows of one of them: history, prompt, answer, knowledge, verdicts
    timeline.py    the same over nights and releases: when its text changed, and how far its vector moved
    neighbours.py  the nearest by knowledge vector, exact
    shelf.py       the published releases, opened once
    pages.py       values into HTML
    guard.py       who may ask, and what every answer says to the browser
    app.py         addresses → pages
    server.py      the listening

Pages are made on the server and work without a script; there is none. Every text of others passes `kar.untrusted`.
"""
