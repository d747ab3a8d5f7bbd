/* The gate's promises S1, S2 and S4, as one worker, one control plane and one Redis that others can write to.
 *
 * Names are those of the code: `fence`, `in_force`, `last_beat`, `applied` (workers/following.py, workers/gate.py),
 * `remembered` (workers/memory.py), the slot, the truth and the beat (control/publishing/publisher.py). An edition is one
 * number, epoch * 8 + version. docs/model.md says what is left out. Mutants, one -D each:
 *
 *   NO_FENCE          a state older than what was applied is taken
 *   OPEN_AT_BOOT      the cell is made open, and the follower looks later
 *   UNSIGNED_BOOT     at boot whatever lies in Redis is obeyed, signed or not
 *   NO_MEMORY         a new life does not know what an earlier one applied
 *   NO_LOCK           the check and the hand-over are two steps
 *   NO_BARRIER        acknowledged before what was handed over has started
 *
 * A life's nonce is the number of that life: nobody has it before. `asks` is what lies in Redis of it, and others write there
 * what they have seen, or nothing.
 *
 *   BOOT_ADVANCING    no mutant but SLUICEGATE_BOOT_POLICY=advancing, which boots on any state that it saw advance
 *
 * BOOT_SIGNED is no mutant but SLUICEGATE_BOOT_POLICY=signed: any signed state that the fence lets through opens.
 */

#define RUN 0
#define DRAIN 1

#define EDITION(e, v) ((e) * 8 + (v))

#define IS_AS_JUDGED (slot_signed == met_signed && slot_edition == met_edition && slot_mode == met_mode && slot_beat == met_beat)

/* Bounds: enough for a pause and its resume, one restore, and a second life. */
#define COMMITS 2
#define BEATS 3
#ifndef RESTORES
#define RESTORES 1
#endif
#ifndef REPLAYS
#define REPLAYS 2
#endif
#define FORGERIES 1
#define CRASHES 1
#define TASKS 2

/* The truth, in Postgres. */
byte epoch = 1, version = 1, mode = RUN, beat = 0;

/* What lies in Redis: `slot_beat` 0 is an empty slot. */
bool slot_signed = false;
byte slot_edition = 0, slot_mode = RUN, slot_beat = 0, slot_answers = 0;
byte asks = 0;

/* Every publication that somebody may have written down, by its beat. */
byte old_edition[BEATS + 1], old_mode[BEATS + 1], old_answers[BEATS + 1];

/* The worker, of its present life: volatile. */
bool up = false;
byte life = 0;
byte fence = 0, in_force = 0, last_beat = 0;
bool cell_open = false;
byte handed = 0;          /* given to a pool child, and not begun yet */
byte applied = 0;         /* complete, and not yet reported */
byte applied_mode = RUN;

byte remembered = 0;      /* on the worker's disk */

/* What an observer knows: these decide nothing. */
byte reported = 0;        /* the last edition that the worker acknowledged, over all its lives */
bool shut = false;        /* it acknowledged a pause, and has put no newer running state into force since */
bool fresh = false;       /* the control plane has published in this life */

byte commits = 0, restores = 0, all_replays = 0, forgeries = 0, crashes = 0, tasks = 0;

proctype Control()
{
    byte met_edition, met_mode, met_beat;
    bool met_signed;
    byte my_edition, my_mode, my_beat, my_answers;

end:
    do
    :: atomic { commits < COMMITS -> commits++; version++; mode = 1 - mode }
    :: atomic { restores < RESTORES && commits > 0 -> restores++; version = 1; mode = RUN }
    :: beat < BEATS ->
        /* Judge what is there before the truth is read (decision 0010). */
        atomic { met_signed = slot_signed; met_edition = slot_edition; met_mode = slot_mode; met_beat = slot_beat;
                 my_answers = asks }
        atomic {
            my_edition = EDITION(epoch, version);
            if
            :: met_signed && (met_edition > my_edition || (met_edition == my_edition && met_mode != mode)) ->
                /* It was restored: above what was met, in a new epoch and version. */
                epoch = met_edition / 8 + 1; version++; my_edition = EDITION(epoch, version)
            :: else
            fi;
            if
            :: beat < BEATS -> beat++
            :: else
            fi;
            my_mode = mode; my_beat = beat
        }
        atomic {
            if
            :: IS_AS_JUDGED ->
                slot_signed = true; slot_edition = my_edition; slot_mode = my_mode; slot_beat = my_beat;
                slot_answers = my_answers; old_answers[my_beat] = my_answers;
                old_edition[my_beat] = my_edition; old_mode[my_beat] = my_mode;
                fresh = true
            :: else
            fi;
            met_signed = false; met_edition = 0; met_mode = 0; met_beat = 0; my_edition = 0; my_mode = 0; my_beat = 0; my_answers = 0
        }
    od
}

/* Whoever can write to Redis: puts back what was published once, writes what is not signed, loses the key. */
proctype Stranger()
{
    byte which;

end:
    do
    :: all_replays < REPLAYS && beat > 0 ->
        atomic {
            select(which : 1 .. BEATS);
            if
            :: which <= beat && old_edition[which] > 0 ->
                slot_signed = true; slot_edition = old_edition[which]; slot_mode = old_mode[which]; slot_beat = which;
                slot_answers = old_answers[which];
                all_replays++
            :: else
            fi;
            which = 0
        }
    :: atomic { forgeries < FORGERIES && life > 0 -> forgeries++; asks = life - 1 }
    :: atomic {
        forgeries < FORGERIES ->
            forgeries++; slot_signed = false; slot_edition = EDITION(7, 7); slot_mode = RUN; slot_beat = BEATS; slot_answers = 0
       }
    :: atomic {
        forgeries < FORGERIES ->
            forgeries++; slot_signed = false; slot_edition = 0; slot_beat = 0; slot_answers = 0
       }
    od
}

/* workers/following.py `see`, and workers/gate.py `put_in_force`. */
proctype Follower()
{
    byte read_edition, read_mode, read_beat, read_answers, my_life;
    bool read_signed, advanced;

end:
    do
#ifndef BOOT_SIGNED
    :: atomic { up && in_force == 0 && asks != life -> asks = life }
#endif
    :: up ->
        atomic {
            my_life = life;
            read_signed = slot_signed; read_edition = slot_edition; read_mode = slot_mode; read_beat = slot_beat;
            read_answers = slot_answers
        }
        atomic {
            if
            :: my_life != life || !up || read_beat == 0   /* another life, or nothing was there */
#ifdef UNSIGNED_BOOT
            :: my_life == life && up && read_beat > 0 && !read_signed && in_force == 0 ->
                in_force = read_edition; cell_open = (read_mode == RUN)
#else
            :: my_life == life && up && read_beat > 0 && !read_signed   /* refused: no trusted signature */
#endif
            :: my_life == life && up && read_beat > 0 && read_signed ->
                if
#ifndef NO_FENCE
                :: read_edition < fence                    /* refused: stale */
#endif
                :: else ->
#ifdef BOOT_ADVANCING
                    advanced = (last_beat > 0 && read_beat > last_beat);
                    last_beat = read_beat;
#endif
                    if
#ifdef BOOT_SIGNED
                    :: in_force == 0 ->
#elif defined(BOOT_ADVANCING)
                    :: in_force == 0 && advanced ->
#else
                    :: in_force == 0 && read_answers == life ->
#endif
                        in_force = read_edition; fence = read_edition; cell_open = (read_mode == RUN)
#ifdef NO_FENCE
                    :: in_force != 0 && read_edition != in_force ->
#else
                    :: in_force != 0 && read_edition > in_force ->
#endif
                        in_force = read_edition; fence = read_edition; cell_open = (read_mode == RUN)
                    :: else
                    fi;
                    if
                    :: cell_open && in_force > reported -> shut = false
                    :: else
                    fi
                fi
            :: else
            fi;
            advanced = false; read_signed = false; read_edition = 0; read_mode = 0; read_beat = 0; read_answers = 0
        }
    od
}

/* The consumer's thread: gate.pass_through and the hand-over to the pool. */
proctype Consumer()
{
    byte my_life;

end:
    do
#ifdef NO_LOCK
    :: atomic { up && cell_open && tasks < TASKS -> my_life = life }
        atomic {
            if
            :: up && my_life == life && tasks < TASKS -> tasks++; handed++
            :: else
            fi
        }
#else
    :: atomic { up && cell_open && tasks < TASKS -> tasks++; handed++ }
#endif
    od
}

/* A pool child enters the task's own code. This is the start that the promises speak of. */
proctype Child()
{
end:
    do
    :: atomic {
        up && handed > 0 ->
            handed--;
            assert(!shut);                                  /* S1 */
#ifndef BOOT_SIGNED
            assert(fresh)                                   /* S4 */
#endif
       }
    od
}

/* The acknowledgement: complete, remembered, reported; a crash may come between any two. */
proctype Acknowledge()
{
end:
    do
    :: atomic {
#ifdef NO_BARRIER
        up && in_force > 0 && in_force != applied ->
#else
        up && in_force > 0 && in_force != applied && (cell_open || handed == 0) ->
#endif
            applied = in_force; applied_mode = (cell_open -> RUN : DRAIN)
       }
    :: atomic { up && applied > 0 && remembered != applied && reported != applied -> remembered = applied }
    :: atomic {
        up && applied > 0 && remembered == applied && reported != applied ->
            assert(applied >= reported);                    /* S2 */
            reported = applied;
            shut = (applied_mode == DRAIN && in_force == applied)
       }
    od
}

/* Lives: a crash takes all that is volatile, and the pool with it. */
proctype Lives()
{
end:
    do
    :: atomic {
        !up ->
            life++; up = true; fresh = false;
#ifdef NO_MEMORY
            fence = 0;
#else
            fence = remembered;
#endif
            in_force = 0; last_beat = 0; handed = 0; applied = 0;
#ifdef OPEN_AT_BOOT
            cell_open = true
#else
            cell_open = false
#endif
       }
    :: atomic { up && crashes < CRASHES -> crashes++; up = false; cell_open = false; handed = 0; in_force = 0; applied = 0 }
    od
}

init
{
    atomic {
        run Control(); run Stranger(); run Follower(); run Consumer(); run Child(); run Acknowledge(); run Lives()
    }
}
