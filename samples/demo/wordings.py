"""How questions about the demo's world are put: at least twenty wordings a kind, and five that are never trained.

`{thing}` stands for a noun phrase ("red circle"), `{things}` for its plural, `{place}` for a place ("at the top left"),
`{Nth}` for "first" or "second". The last five wordings of each kind are kept for the test.
"""

from __future__ import annotations

HELD_OUT = 5

DESCRIBE = """
describe the picture
describe this picture
describe the image
describe what you see
what do you see
what do you see here
what is in the picture
what is in this image
what does the picture show
what does this image show
tell me about this picture
tell me what you see
tell me what is in the image
give me a description
give a description of the image
what is shown here
what can be seen here
what can you see in the picture
say what the picture shows
write a caption for this picture
caption this image
what is this
what is this a picture of
describe everything in the picture
describe the scene
what is in the scene
explain what is in the picture
list everything you see
describe all the shapes with their places
describe it
give me a description of the picture
what can you see here
tell me what the image shows
describe what is in the picture
describe everything you see in the image
"""

LIST = """
what shapes are there
what shapes do you see
which shapes are there
which shapes do you see
which shapes are in the picture
what shapes are in the image
list the shapes
list all shapes
name the shapes
name all the shapes you see
what objects are there
what objects do you see
which objects are in the picture
name the objects
list the objects in the image
what kinds of shapes are there
what kinds of shapes do you see
tell me which shapes are there
tell me the shapes
which shapes can you see
what shapes can be seen
what shapes does the picture show
say which shapes you see
name the shapes in the picture
list the shapes you see
which objects do you see
tell me which shapes you see
name all the objects
"""

COUNT = """
how many {things} are there
how many {things} do you see
how many {things} are in the picture
how many {things} are in this image
how many {things} can you see
how many {things} can you count
how many {things} does the picture show
count the {things}
count all {things}
count the {things} in the picture
tell me how many {things} there are
tell me how many {things} you see
what is the number of {things}
what number of {things} do you see
say how many {things} there are
give me the number of {things}
give the count of {things}
number of {things}
how many {things}
how many {things} are shown
how many {things} are shown here
how many {things} can be seen
there are how many {things}
what is the count of {things}
how many {things} are shown in the picture
tell me the number of {things}
count the {things} you see
how many {things} do you see here
say how many {things} you see
"""

COLOUR = """
what colour is the {thing}
which colour is the {thing}
what colour is the {thing} in the picture
what colour does the {thing} have
which colour does the {thing} have
what is the colour of the {thing}
tell me the colour of the {thing}
tell me what colour the {thing} is
the {thing} is what colour
name the colour of the {thing}
give me the colour of the {thing}
the colour of the {thing}
the {thing} has which colour
what colour do you see on the {thing}
of what colour is the {thing}
of which colour is the {thing}
say what colour the {thing} is
can you see what colour the {thing} is
in what colour is the {thing} drawn
in which colour is the {thing} painted
what colour was used for the {thing}
how is the {thing} coloured
i want to know the colour of the {thing}
which colour is the {thing} in the image
what is the colour of the {thing} in the picture
tell me which colour the {thing} has
say which colour the {thing} is
the {thing} is of which colour
"""

SHAPE = """
what shape is {thing}
which shape is {thing}
what is the shape that is {thing}
which shape do you see that is {thing}
what kind of shape is {thing}
which kind of shape is {thing}
tell me what shape is {thing}
tell me which shape is {thing}
say which shape is {thing}
name the shape that is {thing}
what form is {thing}
which form is {thing}
what shape do you see that is {thing}
what object is {thing}
which object is {thing}
which of the shapes is {thing}
which one of the shapes is {thing}
what sort of shape is {thing}
i want to know which shape is {thing}
give me the shape that is {thing}
what shape in the picture is {thing}
which shape in the image is {thing}
what type of shape is {thing}
say what shape is {thing}
tell me what kind of shape is {thing}
which shape in the picture is {thing}
what shape in the image is {thing}
name the form that is {thing}
"""

WHERE = """
where is the {thing}
where is the {thing} in the picture
where do you see the {thing}
where can you see the {thing}
where can the {thing} be seen
where in the picture is the {thing}
where in the image is the {thing}
where is the {thing} placed
where is the {thing} located
in which place is the {thing}
in what place is the {thing}
at which position is the {thing}
what is the position of the {thing}
what is the place of the {thing}
what is the location of the {thing}
tell me where the {thing} is
tell me the position of the {thing}
say where the {thing} is
find the {thing}
locate the {thing}
show me where the {thing} is
give me the position of the {thing}
in which part of the picture is the {thing}
where does the {thing} stand
where is the {thing} in the image
where can you see the {thing} in the picture
say where you see the {thing}
tell me the place of the {thing}
give me the location of the {thing}
"""

WHAT_AT = """
what is {place}
what is {place} of the picture
what do you see {place}
what can you see {place}
what can be seen {place}
what is shown {place}
what is there {place}
what is drawn {place}
what stands {place}
which thing is {place}
tell me what is {place}
tell me what you see {place}
say what is {place}
describe what is {place}
describe the thing {place}
describe the object {place}
name the object {place}
is there anything {place}
do you see something {place}
is something {place}
which thing do you see {place}
look {place}, what is there
what is located {place}
what is placed {place}
what is {place} of the image
say what you see {place}
describe what you see {place}
tell me what is shown {place}
name the thing {place}
"""

EXISTS = """
is there {a_thing}
is there {a_thing} in the picture
is there {a_thing} in this image
do you see {a_thing}
can you see {a_thing}
can you see {a_thing} in the picture
can you find {a_thing}
does the picture show {a_thing}
does the image show {a_thing}
does the picture have {a_thing}
does the image contain {a_thing}
does the picture contain {a_thing}
is {a_thing} there
is {a_thing} in the picture
is {a_thing} shown
is {a_thing} shown in the image
do you find {a_thing}
do you see {a_thing} in the image
tell me if there is {a_thing}
tell me if you see {a_thing}
say if there is {a_thing}
does it show {a_thing}
does it have {a_thing}
is {a_thing} shown here
is there {a_thing} in the image
tell me if the picture shows {a_thing}
can you see {a_thing} in the image
is {a_thing} shown in the picture
do you see {a_thing} here
"""

BACKGROUND = """
what colour is the background
which colour is the background
what is the colour of the background
what colour does the background have
which colour does the background have
what is the background
what is the background like
tell me the colour of the background
tell me about the background
describe the background
name the background colour
name the colour of the background
what is the background colour
which is the background colour
give me the background colour
what colour is behind the shapes
which colour is behind the shapes
what is behind the shapes
what colour is the back of the picture
the background is what colour
the background has which colour
say what colour the background is
on what background are the shapes
on which background are the shapes
what colour is the background of the image
which colour is the background of the picture
tell me what colour the background is
say which colour the background has
give me the colour of the background
"""

SIZE = """
how big is the {thing}
how large is the {thing}
what size is the {thing}
which size is the {thing}
what is the size of the {thing}
what size does the {thing} have
which size does the {thing} have
is the {thing} large or small
is the {thing} small or large
is the {thing} big or small
is the {thing} small or big
tell me the size of the {thing}
tell me how big the {thing} is
tell me if the {thing} is large or small
tell me if the {thing} is big or small
say how large the {thing} is
say how big the {thing} is
name the size of the {thing}
give me the size of the {thing}
the {thing} is of what size
the size of the {thing}
of what size is the {thing}
the {thing} has which size
i want to know the size of the {thing}
of which size is the {thing}
tell me how large the {thing} is
say if the {thing} is small or large
the {thing} is how big
what is the size of the {thing} in the picture
"""

MORE = """
which picture has more shapes
which image has more shapes
which picture shows more shapes
which image shows more shapes
which picture has more objects
which one has more shapes
which one shows more shapes
which of the pictures has more shapes
which of the two pictures has more shapes
which of the two images shows more shapes
in which picture are more shapes
in which picture are there more shapes
in which image do you see more shapes
where are more shapes
where do you see more shapes
tell me which picture has more shapes
tell me which one has more shapes
say which picture shows more shapes
does the first or the second picture have more shapes
does the first or the second image show more shapes
are there more shapes in the first or the second picture
are there more shapes in the first or in the second image
who has more shapes, the first or the second picture
compare the number of shapes
compare how many shapes there are
which of the two images has more shapes
in which image are there more shapes
tell me which image shows more shapes
say which of the pictures has more shapes
which of the pictures shows more objects
"""

BOTH = """
do both pictures show {a_thing}
do both images show {a_thing}
do both pictures have {a_thing}
do both images have {a_thing}
do both pictures contain {a_thing}
do both show {a_thing}
do the two pictures both show {a_thing}
do the two images both have {a_thing}
is there {a_thing} in both pictures
is there {a_thing} in both images
is {a_thing} in both pictures
is {a_thing} shown in both images
can you see {a_thing} in both pictures
can you see {a_thing} in both images
do you see {a_thing} in both pictures
do you find {a_thing} in both images
does each picture show {a_thing}
does each image have {a_thing}
tell me if both pictures show {a_thing}
tell me if both images have {a_thing}
say if both pictures have {a_thing}
which picture shows {a_thing}
which picture has {a_thing}
which image shows {a_thing}
in which picture do you see {a_thing}
do both images contain {a_thing}
is {a_thing} shown in both pictures
tell me if both pictures have {a_thing}
do you see {a_thing} in both images
say if both images show {a_thing}
"""

NTH = """
what is in the {nth} picture
what is in the {nth} image
what does the {nth} picture show
what does the {nth} image show
what do you see in the {nth} picture
what do you see in the {nth} image
what can you see in the {nth} picture
what is shown in the {nth} picture
what is shown in the {nth} image
describe the {nth} picture
describe the {nth} image
describe picture number {n}
describe image number {n}
tell me about the {nth} picture
tell me about the {nth} image
tell me what is in the {nth} picture
tell me what you see in the {nth} image
say what the {nth} picture shows
say what is in the {nth} image
which shapes are in the {nth} picture
what shapes do you see in the {nth} image
list the shapes in the {nth} picture
name the shapes in the {nth} image
what shapes are in the {nth} image
what can you see in the {nth} image
tell me what the {nth} picture shows
describe what is in the {nth} image
which shapes do you see in the {nth} picture
say what you see in the {nth} picture
"""

SAME_BACKGROUND = """
do both pictures have the same background
do both images have the same background
do the pictures have the same background
do the two images have the same background
are both backgrounds the same
are the backgrounds the same
are the two backgrounds the same
are the backgrounds equal
is the background the same in both pictures
is the background the same in both images
is the background colour the same in both
is it the same background
is it the same background in both pictures
do both have the same background
do both have the same background colour
have both pictures the same background
tell me if the backgrounds are the same
tell me if both pictures have the same background
say if both backgrounds are the same
compare the backgrounds
compare the two backgrounds
compare the background colours
what colour are the backgrounds
are both backgrounds of the same colour
do the two pictures have the same background
is the background colour the same in both images
say if the backgrounds are the same
tell me if both images have the same background
are the two background colours the same
"""

COMPARE = """
compare the two pictures
compare the two images
compare both pictures
compare these pictures
compare these two images
compare the pictures
compare them
what is the difference
what is the difference between the pictures
what is the difference between the two images
what is different
what are the differences
how do the pictures differ
how do the two images differ
describe both pictures
describe both images
describe the two pictures
describe these two images
what do the two pictures show
what do both images show
what is in the two pictures
what is in both images
tell me about both pictures
tell me what both images show
compare both images
what is the difference between the two pictures
how do the two pictures differ
describe these two pictures
tell me about the two images
"""

FOLLOW_COLOUR = """
what colour is it
and what colour is it
which colour is it
and which colour
and the colour
and its colour
what is its colour
what colour does it have
tell me its colour
and what is its colour
"""

FOLLOW_SIZE = """
how big is it
and how big is it
is it large or small
is it big or small
and its size
what is its size
how large is it
what size is it
tell me its size
and what size is it
"""

FOLLOW_WHERE = """
where is it
and where is it
where in the picture is it
and its place
what is its position
where do you see it
where can you see it
tell me where it is
in which place is it
and where do you see it
"""

GREETING = """
hello
hi
hey
hi there
hello there
good morning
good evening
good day
hello, how are you
hi, who are you
who are you
what are you
what is your name
hey there
greetings
hello to you
nice to meet you
how are you
are you there
say hello
say hi
hello, who are you
hello, are you there
good morning to you
hi, what is your name
hey, how are you
"""

ABILITY = """
what can you do
what do you know
what can you see
what shapes do you know
which shapes do you know
what do you understand
what can i ask you
what can i ask
how can you help me
help
help me
can you help me
what are you able to do
what kind of pictures do you know
which pictures do you understand
what are you good at
tell me what you can do
tell me what you know
what questions can i ask
which questions do you understand
what questions can you answer
which shapes can you tell
tell me which shapes you know
which questions can i ask
what can you tell me
which pictures do you know
"""

THANKS = """
thank you
thanks
thank you very much
many thanks
thanks a lot
great, thank you
good, thanks
that was good
well done
very good
great
nice
good answer
bye
goodbye
see you
thank you, goodbye
good bye
that is right
right
ok
okay, thank you
very nice, thanks
well done, thank you
thanks, bye
good, thank you
"""

OTHER = """
what is the capital of france
who is the president
tell me a joke
what is the weather today
what time is it
write a poem
what is two plus two
who won the game
how old is the universe
translate this into german
what is the meaning of life
sing a song
who wrote hamlet
how do i cook rice
is there a dog
do you see a cat
what brand is the car
read the text
who is this person
what is this person doing
how far is the moon
what language do you speak
why is the sky blue
what did the man say
tell me a story
what is the capital of spain
who is this man
write a song
why is the moon far
tell me about the weather
"""


def split(wordings: str) -> tuple[list[str], list[str]]:
    """(trained, held out) wordings of one kind."""
    lines = [line.strip() for line in wordings.strip().splitlines()]
    return lines[:-HELD_OUT], lines[-HELD_OUT:]
