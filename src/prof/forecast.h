/* prof/forecast.h -- floor 4, prof: how long a workflow takes, learnt from its earlier runs, and so how long one that
 * runs still needs. Per node, because what is done is known by node and what runs by its steps.
 * Sees: prof. Seen by: pool. */
#ifndef MP_FORECAST_H
#define MP_FORECAST_H
#include "prof/profile.h"

typedef struct mp_forecast mp_forecast;

mp_forecast *mp_forecast_new(void);
void mp_forecast_free(mp_forecast *f);               /* NULL is fine */
/* One run has just succeeded (its profile is not closed yet). */
void mp_forecast_learn(mp_forecast *f, const mp_profile *p, mp_time now);
mp_time mp_forecast_total(const mp_forecast *f);     /* the usual execution time; 0: not known. NULL is fine */
/* What a run that has begun still needs, and a range that holds nine times of ten. 0: nothing is known. NULL is fine. */
int mp_forecast_left(const mp_forecast *f, const mp_profile *p, mp_time now, mp_time *left, mp_time *low, mp_time *high);
#endif
