"""Action files: `NAME.action` in a directory becomes actions on the bus, and `NAME.out` what Asterisk said.

Needs a client of the bus, and nothing of the worker: it runs on any host that reaches Redis.

What is under way is told by the names in the directory alone, so that a crash at any moment is made good by the next
start, and nothing is written to Asterisk twice:

    NAME.action                        somebody asks; nobody has taken it yet
    NAME.<unix time>.<token>.taken     taken: its actions are, or may be, on the bus
    NAME.out, NAME.error               the answer is there, whole (NAME.error: all of it was refused)
    NAME.refused                       beside NAME.error: the file that was refused, to be mended

What the next start does where the process, or the machine, is lost:

- before the rename to `.taken` was on disk: it finds `NAME.action`, of which nothing is on the bus, and takes it;
- after that, before or after an action was queued: it queues it under the same ActionID and the same absolute deadline.
  The bus executes it if it was not queued before; otherwise it repeats its result, or refuses it as expired;
- while an answer was being written: it writes it anew; the unfinished one is hidden under another name, and dropped;
- after `.out` or `.error` was on disk, before `.taken` was removed: it finds both, and removes `.taken`. The answers to
  earlier files of that name were removed before this one was taken, so this answer is its own.

That the second write is refused rests on two things. The ActionID is made of the name of the `.taken` file, or is the
user's own. And no action is sent later than 30 minutes after its file was taken, while the record that guards it lives
for an hour at least: at no time is one sendable and forgotten. Where a record is sought later still, nobody knows any
more whether it was sent, and `unknown` is what is said.
"""
