"""TensorBoard: event files that its server and every other reader of them shows; importing this imports no tensorboard.

The vendor's package costs 58 MiB for a handful of protobuf messages, so `events` writes these by hand. One event file
is the whole truth about one tracker run: beside what TensorBoard shows it holds what a reader must know to go on
(`journal`), so that every prefix of it is a state that we can continue from, and nothing has to agree with anything.

`fit` says what TensorBoard can hold, `paths` how folders are called, `page` what people read, `batches` what is
appended for a batch (all pure), `figures` what becomes of plots; `storage` is the only code that touches files, `runs`
knows what lies where; `target` puts it together.
"""
